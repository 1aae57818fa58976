"""What a profile can set: a model of each section, with the type, the range and the meaning of every setting.

This is the one place that says what there is. Profiles and overrides are checked against it, `profiles.describe` prints
it, and a run that an earlier version wrote takes from it the settings that came later: those have a default, the value
at which everything is as it was before them.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from agenticrec_lite.errors import UserError

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
LearningRate = Annotated[float, Field(gt=0, lt=1)]
Names = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Address = Annotated[str, Field(pattern=r"^https?://[^\s/]\S*$")]


class Section(BaseModel):
    """Settings that belong together. An int may stand for a float; a bool or a text never stands for a number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Lora(Section):
    r: Count = Field(description="rank of the adapter's matrices")
    alpha: Count = Field(description="what the adapter adds is multiplied by alpha / r")
    targets: Literal["all-linear"] | Names = Field(
        description="which linear layers get an adapter",
        json_schema_extra={"type": "a word or a list", "range": "all-linear or a list of names"},
    )


class PolicySettings(Section):
    id: str = Field(
        description="nano, nano-plain (without its habit), smollm2-135m, a folder, or a name on the Hugging Face hub"
    )
    revision: str = Field("main", description="of a model on the hub: a branch or a commit")
    brief: bool = Field(description="whether the system prompt lists each tool in one line, without explanations")
    chat_template: str = Field(
        "own",
        description="own is the tokenizer's; or a file with another one, in Jinja; its enable_thinking is set to false",
    )
    tools: Literal["words", "schemas"] = Field(
        "words", description="tools in the system prompt's words, or as JSON schemas if the chat template takes them"
    )
    quantize: Literal["nf4", "none"] = Field(description="how the frozen weights are stored: nf4 is four bits")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(description="what the policy computes in")
    lora: Lora = Field(description="the adapter, which is all that is trained")
    attention: Literal["sdpa", "eager"] = Field("sdpa", description="implementation of attention in transformers")
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: slower, in much less memory"
    )


class WarmStart(Section):
    steps: CountOrZero = Field(0, description="training steps; 0 leaves the warm start out")
    when: Literal["always", "needed"] = Field(
        "always",
        description="needed: only if fewer than half of 16 sampled trajectories of the untrained policy are valid",
    )
    batch: Count = Field(8, description="trajectories a step")
    micro_batch: Count = Field(
        8, description="trajectories in one forward and backward pass; batch is a multiple of it"
    )
    learning_rate: LearningRate = Field(1e-3, description="at first, then down to 0 in a straight line")
    warmup_steps: CountOrZero = Field(4, description="steps in which the learning rate rises from 0")


class Tasks(Section):
    n_candidates: Annotated[int, Field(ge=10)] = Field(  # 10 is agent.protocol.TOP
        20, description="items to rank, one of them the item that the user took; an answer names ten"
    )
    history_length: Count = Field(10, description="items of the history that are shown, the latest")
    min_history: Count = Field(3, description="fewest earlier interactions of a user who is asked about")


class Vllm(Section):
    mode: Literal["colocate", "server"] = Field(
        "colocate", description="vLLM in this process, or a server, through trl: in training only, not in NF4"
    )
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.3, description="part of the GPU's memory that vLLM takes, if in this process"
    )
    tensor_parallel_size: Count = Field(1, description="GPUs that share the model; 1 if in this process")
    enable_sleep_mode: bool = Field(False, description="whether vLLM frees its memory while the policy is trained")
    server_base_url: Address | None = Field(
        None, description="address of the server; null is trl's default",
        json_schema_extra={"type": "text or null", "range": "null or an http(s) address"},
    )  # fmt: skip


class Agent(Section):
    neighbours: Count = Field(
        description="neighbours that each collaborative tool names, before the ordered candidates"
    )
    weigh_evidence: bool = Field(
        False, description="whether there is the tool that adds up lists by weights; the paper has none"
    )
    max_calls: CountOrZero = Field(description="tool calls a trajectory; one more is an invalid outcome")
    max_turn_tokens: Count = Field(
        description="longest turn of the policy, in tokens, thoughts counted; a longer one is cut, and ends as invalid"
    )
    max_completion_tokens: Count = Field(
        description="longest trajectory that goes on, observations included; a last turn may go beyond it"
    )
    batch_rows: Count = Field(description="trajectories decoded together")
    merge: bool = Field(description="while decoding, merge the adapter into dequantised weights; only in float32")
    engine: Literal["own", "vllm"] = Field(
        "own", description="what plays, in training and evaluation: own, or vllm (not tried on a card)"
    )
    vllm: Vllm = Field(default_factory=Vllm, description="how vLLM runs")


class Stage(Section):
    steps: CountOrZero = Field(description="training steps; 0 leaves the stage untrained")
    tasks_per_step: Count = Field(description="questions a step, in all processes together")
    group_size: Annotated[int, Field(ge=2)] = Field(description="trajectories a question, compared with each other")
    micro_groups: Count = Field(
        description="groups in one forward and backward pass of a process; tasks_per_step is a multiple of it"
    )
    scale_rewards: Literal["none", "group"] = Field(
        "none", description="group: advantages are divided by their group's standard deviation; none is the paper's"
    )
    learning_rate: LearningRate = Field(description="at first, then down to 0 in a straight line")
    save_every: Count = Field(1, description="steps between two checkpoints")
    warmup_steps: CountOrZero = Field(description="steps in which the learning rate rises from 0")
    temperature: Annotated[float, Field(gt=0)] = Field(description="of sampling; below 1 likely tokens become likelier")


class PairStage(Stage):
    mining_tasks: CountOrZero = Field(description="fresh tasks that the stage-1 policy plays, to find hard negatives")
    rehearse: bool = Field(description="each pair's ranking task stays among the questions; false is the paper's")


class Evaluation(Section):
    n_test: Count = Field(description="test tasks; the seed decides which")
    n_validation: Count = Field(description="tasks that the weights of the evidence ceiling are fitted on")


class Tracking(Section):
    report_to: str = Field("none", description="none, or where trl reports to: tensorboard, trackio")


class Profile(Section):
    policy: PolicySettings = Field(description="the language model and its adapter")
    warm_start: WarmStart = Field(
        default_factory=WarmStart, description="supervised steps on scripted trajectories, before stage 1"
    )
    tasks: Tasks = Field(default_factory=Tasks, description="what is asked")
    agent: Agent = Field(description="how the policy plays")
    rta: Stage = Field(description="stage 1: list-wise GRPO")
    ppr: PairStage = Field(description="stage 2: pair-wise questions about mined hard negatives")
    evaluation: Evaluation = Field(description="how many tasks are measured")
    tracking: Tracking = Field(default_factory=Tracking, description="where training reports to")


def checked(settings: Mapping[str, Any], profile: str, file: bool = False) -> dict[str, Any]:
    """The settings as a nested dict, complete, each of its type.

    Args:
        settings: Sections of settings.
        profile: Name of the profile, for the error.
        file: Whether the settings are those of a user's file, which the error then names.

    Raises:
        UserError: A name that is no setting, one that is missing, a wrong type, or a value out of its range. Of several
            mistakes it tells the first.
    """
    try:
        return Profile.model_validate(dict(settings)).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    section, field, path = Profile, None, []
    for name in first["loc"]:  # what follows a setting's name is where in its value the mistake is
        path.append(str(name))
        if name not in section.model_fields:
            known = ", ".join(".".join([*path[:-1], each]) for each in section.model_fields)
            raise UserError(f"Profile {profile!r} has no setting {'.'.join(path)!r}; here it has: {known}.")
        field = section.model_fields[name]
        if not is_section(field):
            break
        section = field.annotation
    setting, value = ".".join(path), settings
    for name in path:
        value = value.get(name)
    place = f" in {profile}" if file else ""
    raise UserError(f"Setting {setting!r}{place} must be {_wanted(field, first['type'])}, not {value!r}.")


def with_defaults(given: Mapping[str, Any], section: type[Section] = Profile) -> dict[str, Any]:
    """`given` with the default of each setting that it lacks and that has one; nothing is checked."""
    added = {}
    for name, field in section.model_fields.items():
        if is_section(field):
            inner = given.get(name, {})
            if isinstance(inner, Mapping) and (filled := with_defaults(inner, field.annotation)):
                added[name] = filled
        elif name not in given and not field.is_required():
            added[name] = field.get_default()
    return {**given, **added}


def each_setting(section: type[Section] = Profile, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted name, field) of every setting, in the order of a profile file."""
    for name, field in section.model_fields.items():
        if is_section(field):
            yield from each_setting(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def is_section(field: FieldInfo) -> bool:
    """Whether a field holds further settings, and not a value."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, Section)


def kind(field: FieldInfo) -> str:
    """The type of a setting in words, e.g. "a whole number"."""
    if is_section(field):
        return "a section of settings"
    if field.json_schema_extra:
        return field.json_schema_extra["type"]
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return "a word" if get_origin(field.annotation) is Literal else words[field.annotation]


def allowed(field: FieldInfo) -> str:
    """The range of a setting in words, e.g. "above 0 and below 1"; empty if all values of its type are allowed."""
    if field.json_schema_extra:
        return field.json_schema_extra["range"]
    if get_origin(field.annotation) is Literal:
        *others, last = get_args(field.annotation)
        return f"{', '.join(others)} or {last}"
    bounds = {"ge": "{} or more", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
    return " and ".join(
        text.format(getattr(constraint, name))
        for constraint in field.metadata for name, text in bounds.items() if hasattr(constraint, name)
    )  # fmt: skip


def _wanted(field: FieldInfo, mistake: str) -> str:
    """What a setting must be, by pydantic's name of the mistake."""
    if mistake == "finite_number":
        return "a finite number"
    wrong_type = mistake in ("int_type", "float_type", "bool_type", "string_type", "model_type", "missing")
    return kind(field) if wrong_type and not field.json_schema_extra else allowed(field)
