"""Prompts and their tokens: one protocol for warm start, rollouts, evaluation and PPR."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jinja2 import TemplateError

from agenticrec_lite.agent.protocol import TOP, write_answer, write_call
from agenticrec_lite.errors import UserError, first_line
from agenticrec_lite.tools import TOOLS, TaskContext, tools_of
from agenticrec_lite.tools.registry import parameters, schema, summary
from agenticrec_lite.tools.text import escape

_MARK = "\u241e"  # stands for a turn or an observation while a template is taken apart


def system_prompt(brief: bool, tools: Mapping[str, Callable[..., str]] = TOOLS, schemas: bool = False) -> str:
    """The rules of the game.

    Args:
        brief: One line a tool (nano), instead of one with its whole summary.
        tools: By name.
        schemas: The chat template lists the tools itself, so they are not listed here.
    """
    listed = "" if schemas else "\nTools:" + "".join(
        f"\n{name}({', '.join(parameters(tool))})" + ("" if brief else f": {summary(tool)}")
        for name, tool in tools.items()
    )  # fmt: skip
    if brief:
        return listed.strip()
    name, argument = next(
        ((name, next(iter(parameters(tool)))) for name, tool in tools.items() if parameters(tool)),
        (next(iter(tools)), None),
    )
    return (
        "You are a recommender agent. Think, call tools to gather evidence, then answer.\n"
        "A turn is <think>your thoughts</think> followed by one tool call, for example\n"
        f"{write_call(name, {argument: 'h1'} if argument else {})}\n"
        f"or by the answer. You may call at most 10 tools.{listed}"
    )


def task_prompt(context: TaskContext, kind: str = "rank") -> str:
    """History, candidates and the question.

    Args:
        context: The task; of a pair-wise question, with its pair, which alone is shown.
        kind: "rank", or which of a pair is "more" / "less" likely.
    """
    history = "\n".join(f"h{i + 1}. {escape(card.title)}" for i, card in enumerate(context.history))
    candidates = "\n".join(f"{name}. {escape(context.candidates[i].title)}" for i, name in context.labels.items())
    if kind == "rank":
        ask = f"Rank the {TOP} best candidates, best first: {write_answer('[n, ...]')}"
    else:
        ask = f"Which is {kind.upper()} likely the next item, A or B? {write_answer('A or B')}"
    return f"History, oldest first:\n{history}\nCandidates:\n{candidates}\n{ask}"


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer's own chat template, taken apart once into the pieces that rollouts need.

    Thinking is switched off where the template knows the switch (`enable_thinking`, as Qwen3's does). The empty block
    of thoughts that Qwen3's then puts before each turn is a part of the prompt and of `observation_suffix`, never of
    the policy's turn; what the policy thinks in its turn all the same is its own.

    Attributes:
        tokenizer: With a chat template that knows the role "tool".
        brief: Whether the system prompt is the short one.
        observation_prefix, observation_suffix: Text around an observation, after the policy's end of turn and up to
            the place where the policy goes on.
        end_of_turn: The token with which the policy ends each turn.
        schemas: Whether the template gets the tools as JSON schemas, and the system prompt does not list them.
    """

    tokenizer: object
    brief: bool
    observation_prefix: str
    observation_suffix: str
    end_of_turn: int
    schemas: bool = False

    @classmethod
    def of_policy(cls, policy) -> "ChatFormat":
        """The format of a policy.Policy, as its settings say."""
        return cls.of(policy.tokenizer, policy.brief, policy.tools)

    @classmethod
    def of(cls, tokenizer, brief: bool = False, tools: str = "words") -> "ChatFormat":
        """Take a tokenizer's template apart.

        Args:
            tokenizer: With a chat template.
            brief: Whether the system prompt is the short one.
            tools: "words" lists the tools in the system prompt; "schemas" hands them to the template, if it takes any.

        Raises:
            UserError: There is no template, or it does not take these roles; it does not end a turn with the
                end-of-turn token; or a special token could be spelt in data text, which is escaped but not kept from
                the tokenizer.
        """
        turns = [
            {"role": "system", "content": "?"},
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": _MARK},
            {"role": "tool", "content": _MARK},
        ]
        try:
            text = _rendered(tokenizer, turns)
            with_tools = _rendered(tokenizer, turns, TOOLS) if tools == "schemas" else text
            _, between, after = with_tools.split(_MARK)
        except (ValueError, TemplateError) as error:
            raise UserError(
                f"The policy's chat template cannot be used ({first_line(error)}); set policy.chat_template to a file "
                "with one that takes the roles system, user, assistant and tool."
            ) from None
        end = tokenizer.eos_token
        if not between.startswith(end):
            raise UserError(
                f"The policy's chat template does not end a turn with {end!r}, but with {between[:20]!r}; take a chat "
                "model whose template does."
            )
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        if spelt := [token for token in special if escape(token) == token]:
            raise UserError(
                f"The policy's tokenizer has the special token {spelt[0]!r}, which an item's title could spell; take a "
                "model whose special tokens are made of <, > or |."
            )
        return cls(tokenizer, brief, between.removeprefix(end), after, tokenizer.eos_token_id, with_tools != text)

    def prompt_ids(self, context: TaskContext, kind: str = "rank") -> list[int]:
        """Token ids of a task's prompt, up to the place where the policy begins."""
        tools = tools_of(context)
        system, user = system_prompt(self.brief, tools, self.schemas), task_prompt(context, kind)
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        text = _rendered(self.tokenizer, messages, tools if self.schemas else None)
        return self.tokenizer.encode(text, add_special_tokens=False)

    def turn_ids(self, text: str) -> list[int]:
        """Token ids of a scripted turn, end of turn included."""
        return self.tokenizer.encode(text, add_special_tokens=False) + [self.end_of_turn]

    def observation_ids(self, text: str) -> list[int]:
        """Token ids from the end of the policy's turn to the start of its next one.

        Encoded in one piece, as the template would be: a full stop and the newline after it are one token of Qwen's.
        """
        return self.tokenizer.encode(self.observation_prefix + text + self.observation_suffix, add_special_tokens=False)

    def turn_text(self, ids: list[int]) -> str:
        """Text of a turn without its end-of-turn token, special tokens of the protocol kept."""
        ended = ids[-1:] == [self.end_of_turn]
        return self.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=False)


def _rendered(tokenizer, messages: list[dict], tools: Mapping[str, Callable[..., str]] | None = None) -> str:
    """Messages by a chat template, up to the place where the policy goes on, without thoughts that it did not ask for.

    A template that does not know a variable, such as `enable_thinking` or `tools`, leaves it aside.
    """
    schemas = [schema(tool) for tool in tools.values()] if tools else None
    return tokenizer.apply_chat_template(
        messages, tools=schemas, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
