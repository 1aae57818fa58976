"""A trajectory token by token: what the policy wrote (action mask 1), and what was fed to it (action mask 0).

The view of agent/viewer.py one level deeper, with its card, its colours and its escaping. A token that the policy wrote
stands on a solid line and is tinted by the advantage; a token that it only read is grey on a dotted line; special
tokens are boxed. So the mask is legible without colour.
"""

from itertools import groupby

from agenticrec_lite.show.viewer import View, _advantage, _get, _head, _number, _origin, _safe, _scale

FOLD, PREVIEW = 130, 70  # tokens: a longer block that the policy did not write is folded after PREVIEW
LEGEND = """<div class="a-legend">
<span><span class="t t-on t-key">abc</span>written by the policy, trained (mask 1)</span>
<span><span class="t t-key">abc</span>read by the policy, not trained (mask 0)</span>
<span><span class="t t-special t-key">&lt;abc&gt;</span>special token</span>
<span>\u23ce line break; hover for position, id, log-probability</span></div>"""


def show_tokens(trajectory, tokenizer, title: str | None = None) -> View:
    """Every token of one trajectory in a box of its own, coloured by the action mask and, where set, the advantage.

    Args:
        trajectory: A Trajectory with prompt_ids [P], completion_ids and action_mask [C]; logprobs [C] may be missing.
        tokenizer: That made the ids; its special tokens are boxed.
        title: Heading; the task id by default.

    Raises:
        ValueError: Token ids and mask differ in length.
    """
    ids, mask = _get(trajectory, "completion_ids"), _get(trajectory, "action_mask")
    logprobs, prompt = _get(trajectory, "logprobs") or [None] * len(ids), _get(trajectory, "prompt_ids") or []
    texts = {i: tokenizer.decode([i], skip_special_tokens=False) for i in {*prompt, *ids}}
    added = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    tokens = zip([*prompt, *ids], [0] * len(prompt) + list(mask), [None] * len(prompt) + list(logprobs), strict=True)
    spans = [_token(place, i, texts[i], on, log_p, i in added) for place, (i, on, log_p) in enumerate(tokens)]
    sign, style, pushed = _advantage(trajectory)
    runs = _run("Prompt", spans[: len(prompt)], "not trained", 0) if prompt else ""
    for on, run in groupby(zip(mask, spans[len(prompt) :], strict=True), key=lambda pair: bool(pair[0])):
        name, note = ("Policy", pushed or "mask 1") if on else ("Observation", "not trained")
        runs += _run(name, [span for _, span in run], note, None if on else PREVIEW)
    numbers = [_number(_get(trajectory, name)) for name in ("reward", "advantage")]
    card = f"{_head(trajectory, '', *numbers)}{_scale(*numbers)}{runs}"
    meta = f"{_origin(trajectory)} · {len(prompt)} + {len(ids)} tokens, {sum(mask)} of them written by the policy"
    card = f'<div class="a-card{sign}" role="article" tabindex="0" aria-label="Tokens"{style}>{card}</div>'
    return View(title or _get(trajectory, "task_id") or "Tokens", meta.removeprefix(" · "), card, LEGEND)


def _token(place: int, token_id: int, text: str, on: int, log_p: float | None, special: bool) -> str:
    """One token; half a character, which has no text of its own, is shown as its id."""
    shown = f"#{token_id}" if "\ufffd" in text or not text else text
    shown = _safe(shown).replace("\n", '<span class="t-end">\u23ce</span>\n')
    note = f"position {place}, id {token_id}" + (f", log p {log_p:.3f}" if on and log_p is not None else "")
    return f'<span class="t{" t-on" if on else ""}{" t-special" if special else ""}" title="{note}">{shown}</span>'


def _run(name: str, spans: list[str], note: str, shown: int | None) -> str:
    """Tokens of one writer in a row; a long block that the policy did not write is folded, and open in print."""
    if shown is None or (shown and len(spans) <= FOLD):
        body = f'<div class="t-body">{"".join(spans)}</div>'
    else:
        first = f'<div class="t-body">{"".join(spans[:shown])}</div>' if shown else ""
        rest = "".join(spans[shown:])
        body = f'{first}<details><summary>{len(spans) - shown} tokens{" more" if shown else ""}</summary>'
        body += f'<div class="t-body">{rest}</div></details>'
    kind = "think" if name == "Policy" else "observation"
    count = f"{len(spans)} token{'' if len(spans) == 1 else 's'}"
    return f'<div class="t-run a-step a-{kind}"><div class="a-label">{name}<i>{count}, {note}</i></div>{body}</div>'
