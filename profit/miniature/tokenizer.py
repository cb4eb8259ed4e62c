"""The word-level tokenizer of the miniature language, with a chat template and a real end token.

Words carry the space before them (Metaspace), so that decoding gives back an answer exactly and every token has a
character span.
"""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from profit.miniature.lexicon import INSTRUCTIONS, MARKERS, PEOPLE, SIGNS, SLOTS, THINGS, VERBS

END, PAD, UNKNOWN, USER, ASSISTANT = "<|end|>", "<|pad|>", "<|unknown|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}" + USER + "{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}" + ASSISTANT + "{{ message['content'] }}" + END + "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)  # fmt: skip
_FIXED_WORDS = "has them How many now the answer is Options = "


def build_tokenizer(largest: int) -> PreTrainedTokenizerFast:
    """The tokenizer for amounts up to `largest`, ready to be saved as an ordinary Hugging Face folder."""
    words = set(_FIXED_WORDS.split()) | {*PEOPLE, *THINGS, *MARKERS, *SIGNS.values()}
    words |= {verb for verbs in VERBS.values() for verb in verbs}
    words |= {word for wordings in SLOTS.values() for wording in wordings for word in wording.split()}
    words |= {word for text in INSTRUCTIONS.values() for word in text.rstrip(".").split() if "{" not in word}
    words |= {str(number) for number in range(largest + 1)}
    special = [PAD, END, UNKNOWN, USER, ASSISTANT]
    vocabulary = {token: i for i, token in enumerate([*special, *".,:?", *("▁" + word for word in sorted(words))])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Split(Regex("[.,:?]"), "isolated")]
    )
    core.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
