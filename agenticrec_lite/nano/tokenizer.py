"""nano's own byte-level BPE, trained on generated worlds, and its chat template."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from agenticrec_lite.agent.protocol import TAGS

VOCABULARY = 2048
SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>", *TAGS]
# Words with their leading space (and underscores inside: a tool's name is a word); numbers two digits at a time with
# the comma or colon before them, so that "7:88, 3:81" is four tokens and ", 3" is the same in a list and in an answer;
# and runs of everything else.
_PIECES = r" ?\p{L}[\p{L}\p{M}_]*|(?:, |[ :])?\p{N}{1,2}|[^\p{L}\p{N}]+?(?=(?:, |[ :])?[\p{L}\p{N}]|$)"
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
    numbers = ["".join(f" {n}:{n}, {n} {n:02d}" for n in range(100))] * 300
    roles = ["system user assistant tool\n"] * 200
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
