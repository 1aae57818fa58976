"""nano's own byte-level BPE, trained on generated worlds, and its chat template."""

import re

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from agenticrec_lite.agent.protocol import TAGS

VOCABULARY = 2048
SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>", *TAGS]
# The fixed text of calls and answers in one piece each, so that a call without arguments is five tokens; words with
# their leading space (and underscores inside: a tool's name is a word); numbers two digits at a time with the comma or
# colon before them, so that "7:88, 3:81" is four tokens and ", 3" is the same in a list and in an answer; and runs of
# everything else.
SCAFFOLD = (
    '{"name": "', '", "arguments": {}}', '", "arguments": {"weights": "', '", "arguments": {"', '"}}', "\\boxed{[",
    "\\boxed{", "Candidates by", "]}",
)  # fmt: skip
_FIXED = "|".join(map(re.escape, SCAFFOLD))
_PIECES = rf"{_FIXED}| ?\p{{L}}[\p{{L}}\p{{M}}_]*|(?:, |[ :])?(?:100|\p{{N}}{{1,2}})"
_PIECES += rf"|[^\p{{L}}\p{{N}}]+?(?={_FIXED}|(?:, |[ :])?[\p{{L}}\p{{N}}]|$)"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'tool' %}<observation>{{ m.content }}</observation>{% else %}{{ m.content }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Fit the BPE.

    Args:
        texts: Prompts, turns and observations from generated worlds.
    """
    core = Tokenizer(models.BPE())
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_PIECES), "isolated"), as_bytes])
    core.decoder = decoders.ByteLevel()
    numbers = ["".join(f" {n}:{n}, {n} {n:02d}" for n in range(101))] * 300
    texts = texts + [" ".join(f"{piece}a" for piece in SCAFFOLD)] * 300
    roles = ["system user assistant tool\n"] * 3000
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts + numbers + roles, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<|pad|>", eos_token="<|im_end|>", chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
