"""Trains several runs in one group of processes, one of which then fails; test_processes.py launches it.

Arguments: JSON lists of a kind and the command line of `profit train`. Kind "ddp" is a plain run; "fsdp" shards the
weights as on GPUs, which accelerate refuses to do on CPUs; "again" is a run that is stopped after five steps and
started once more, sharded too.
"""

import json

import torch.distributed as dist
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from profit import processes, train
from profit.files import InputError
from profit.run_trainer import RunTrainer


class Stopped(Exception):
    pass


def shard_on_cpus():
    initialise = PartialState.__init__

    def as_on_gpus(self, *args, **kwargs):
        initialise(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = as_on_gpus
    processes.sharded = lambda: True


def train_twice(argv):
    log = RunTrainer.log

    def stop(self, logs, *args):
        log(self, logs, *args)
        if self.state.global_step == 5:
            raise Stopped

    RunTrainer.log = stop
    try:
        train.main(argv)
    except Stopped:
        RunTrainer.log = log
        train.main(argv)


def main(argv):
    plain = True
    for kind, *arguments in map(json.loads, argv):
        if kind != "ddp" and plain:
            shard_on_cpus()
            plain = False
        (train_twice if kind == "again" else train.main)(arguments)
    if dist.get_rank() == 1:
        raise InputError("the second process has had enough")
    processes.meet()
