# `make study` runs the whole miniature study, `make test` all tests; each makes the environment .venv first.
#
#   make study STUDY=smoke             another study of workflow/studies, or the path of a study file
#   make environment TORCH_OPTIONS=…   options of pip for torch alone, such as the index of the CPU builds
#   make reference                    ship the tables and pictures of a finished miniature study
#   make reference-audit, -phase      ship what the README shows of those studies, once finished
#   make bench                        time, memory and errors of the fused LM head beside others' (profit.bench)
#   make paper-smoke                  the paper's own study rehearsed: small models of its architectures, no hub, no GPU
#   make test-slurm                   the smoke study on a real Slurm of one node (packages slurm-wlm and munge)
#   make lint, make clean

PYTHON ?= python3
STUDY ?= miniature
STUDY_FILE := $(if $(filter %.yaml %.yml,$(STUDY)),$(STUDY),workflow/studies/$(STUDY).yaml)
TORCH_OPTIONS ?=
ACTIVATE := . .venv/bin/activate

PICTURES := claims table1_main fig2_multi_reference fig3_probability fig4_threshold gradient_share

# What of the audit and of the phase map is shipped.
TABLES_audit := claims.md summary.md claims.csv tune.csv world.csv answer_style.csv
PICTURES_audit := claims drift learning_rate answer_style
TABLES_phase := phase.csv
PICTURES_phase := phase

.PHONY: study test paper-smoke test-slurm slurm-packages bench lint reference reference-audit reference-phase environment clean

study: environment
	@$(ACTIVATE) && snakemake --cores all --configfile $(STUDY_FILE)

test: environment
	@$(ACTIVATE) && python -m pytest -n auto --maxprocesses 4 --dist loadfile

paper-smoke: environment
	@$(ACTIVATE) && python tests/paper_smoke.py --cores all

test-slurm: slurm-packages environment
	.venv/bin/pip install --quiet -c constraints.txt -e '.[slurm]'
	@$(ACTIVATE) && python -m pytest -s tests/slurm/smoke_on_slurm.py

slurm-packages:
	@PATH="$$PATH:/usr/sbin:/sbin"; for program in munged slurmctld slurmd sbatch srun; do \
	  command -v $$program > /dev/null && continue; \
	  echo "$$program is missing; as root: apt-get install slurm-wlm munge, then try again."; exit 1; done

bench: environment
	@$(ACTIVATE) && python -m profit.bench

lint: environment
	@$(ACTIVATE) && ruff check && ruff format --check && snakefmt --check Snakefile workflow && snakemake --lint

reference: results/miniature/tables/tune.csv results/miniature/tables/main.csv
	rm -rf results/reference/tables results/reference/pictures
	mkdir -p results/reference/tables results/reference/pictures
	cp results/miniature/tables/* results/reference/tables/
	cp $(PICTURES:%=figures/miniature/%.png) results/reference/pictures/

reference-audit reference-phase: reference-%: results/%/claims.json
	rm -rf results/reference/$*
	mkdir -p results/reference/$*
	cp $(TABLES_$*:%=results/$*/tables/%) $(PICTURES_$*:%=figures/$*/%.png) results/reference/$*/

results/miniature/tables/%.csv:
	@echo "$@ is missing: ship only a finished study, and \`snakemake --cores all tune\` first"; exit 1

environment: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Found $$($(PYTHON) --version 2>&1), expected Python 3.11 or later; name one with: make PYTHON=python3.12 …"; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing; install the package python3-venv (apt install python3-venv), then try again."; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet -c constraints.txt $(TORCH_OPTIONS) torch==2.13.0
	.venv/bin/pip install --quiet -c constraints.txt -e '.[all]'
	@grep -q SNAKEMAKE_PROFILE .venv/bin/activate || \
	  echo 'export SNAKEMAKE_PROFILE="$(CURDIR)/workflow/profiles/default"' >> .venv/bin/activate
	@touch $@

# The environment and caches; results and figures stay.
clean:
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info build
