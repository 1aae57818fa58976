"""Formulas of the package, each broken in one place, and the tests that must notice: the list behind `make mutate`.

A group is a module, the tests of it (the quickest, or those that notice most, first), and its mutants. A mutant is a
text that stands exactly once in the module, the text that replaces it, and what the break would mean. One that cannot
be noticed has `justified`: a sentence that says why.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One break.

    Attributes:
        old: Text of the module; it must stand there exactly once.
        new: What replaces it.
        means: What would go wrong.
        justified: Why no test can notice it; empty for all others.
    """

    old: str
    new: str
    means: str
    justified: str = ""


@dataclass(frozen=True)
class Group:
    """Mutants of one module, in the package, and the tests that run for each of them, in this order."""

    module: str
    tests: tuple[str, ...]
    mutants: tuple[Mutant, ...]


M = Mutant

REWARDS = Group(
    "rewards.py",
    ("tests/test_rewards.py",),
    (
        M("answer.index(positive) + 2", "answer.index(positive) + 3", "every rank counts as one worse"),
        M("if positive in answer[:10] else 0.0", "if positive in answer else 0.0", "N@10 sees ranks beyond 10"),
        M("MISSED = -0.5", "MISSED = 0.0", "missing the positive keeps its group alive"),
        M("INVALID = -1.0", "INVALID = -0.5", "an invalid answer is no worse than a miss"),
        M("TOP_BONUS = 0.1", "TOP_BONUS = 0.2", "another bonus than the paper's"),
        M(" and trajectory.n_calls > 0", "", "the bonus needs no tool"),
        M("trajectory.n_calls > 0", "trajectory.n_calls > 1", "the bonus needs two calls"),
        M("trajectory.answer[0] == positive", "positive in trajectory.answer[:2]", "second place gets the bonus"),
        M("1.0 if trajectory.answer == right else 0.0", "1.0 if trajectory.answer == right else -1.0",
          "a wrong letter is punished like no answer"),
        M("trajectory.answer == right", "trajectory.answer != right", "the wrong letter is rewarded"),
        M('trajectory.kind == "rank"', 'trajectory.kind != "less"', "a MORE question is rewarded as a ranking"),
        M("(groups < 0).all(axis=1)", "(groups < 0).any(axis=1)", "one bad rollout drops its group"),
        M("(groups < 0)", "(groups <= 0)", "groups of wrong letters are dropped"),
        M("groups.mean(axis=1, keepdims=True)", "groups.mean()", "the baseline is not the group's"),
        M("groups - groups.mean(axis=1, keepdims=True)",
          "(groups - groups.mean(axis=1, keepdims=True)) / (groups.std(axis=1, keepdims=True) + 1e-4)",
          "GRPO's division by the deviation, which the paper leaves out"),
        M("groups - groups.mean(axis=1, keepdims=True)",
          "(groups - groups.mean(axis=1, keepdims=True)) * group_size / (group_size - 1)",
          "the leave-one-out baseline (RLOO)"),
        M("advantages[dropped] = 0.0", "pass", "hopeless groups still move the weights"),
        M(".reshape(-1, group_size)", ".reshape(group_size, -1).T", "groups are made of other rollouts"),
    ),
)  # fmt: skip

SAMPLING = Group(
    "agent/episodes.py",
    ("tests/test_sampling.py",),
    (
        M("torch.log_softmax(logits / (self.temperature or 1.0), -1)", "torch.log_softmax(logits, -1)",
          "sampling and recorded log-probabilities know no temperature"),
        M("log_p.argmax(-1)", "log_p.argmin(-1)", "greedy takes the least likely token"),
        M("if self.temperature == 0:", "if self.temperature < 1:", "low temperatures are greedy"),
        M("log_p.exp().cumsum(-1)", "log_p.exp().sqrt().cumsum(-1)", "draws from a flatter distribution"),
        M("right=True", "right=False", "a draw of 0 takes a first token of probability 0"),
        M(".clamp(max=logits.shape[1] - 1)", "", "logits that are not finite end in an index error"),
        M("torch.rand(len(logits), 1,", "torch.rand(1, 1,", "all rows of a batch share one random number"),
        M("1, generator=generator)", "1)", "the seed has no effect"),
        M(" * below[:, -1:]", "", "rounding of the sum falls to the last token, likely or not"),
        M("log_p.gather(1, token[:, None])[:, 0]", "log_p.max(-1).values", "records another token's probability"),
        M("return cls(temperature, **", "return cls(1.0, **", "a profile's temperature is not used"),
    ),
)  # fmt: skip

ROLLOUT = Group(
    "agent/rollout.py",
    (
        "tests/test_rollout.py::test_ragged_turns_have_the_log_probabilities_of_a_fresh_forward",
        "tests/test_rollout.py::test_the_action_mask_marks_exactly_what_the_policy_wrote",
        "tests/test_rollout.py::test_an_observation_that_does_not_fit_ends_as_length",
        "tests/test_rollout.py::test_a_trajectory_goes_on_only_while_it_is_shorter_than_the_longest",
        "tests/test_rollout.py::test_what_prompts_begin_with_is_run_once",
        "tests/test_rollout.py::test_greedy_follows_the_argmax_and_sampling_repeats_with_its_seed",
        "tests/test_rollout.py::test_an_observation_of_many_tokens_a_character_is_cut",
        "tests/test_rollout.py::test_waiting_groups_take_the_places_of_those_that_have_ended",
        "tests/test_rollout.py::test_rows_go_on_at_their_own_pace_and_stay_exact",
        "tests/test_rollout.py::test_what_a_trajectory_samples_does_not_hang_on_who_is_played_with_it",
    ),
    (
        M("action_mask += [1] * len(ids)", "action_mask += [1] * (len(ids) - 1) + [0]",
          "the end of a turn is not trained"),
        M("action_mask += [0] * len(observation)", "action_mask += [1] * len(observation)",
          "observations are trained as if the policy had written them"),
        M("logprobs += [0.0] * len(observation)", "logprobs += [-1.0] * len(observation)",
          "observation tokens have a log-probability"),
        M("self.logprobs[index].tolist()", "self.logprobs[: len(ended)].tolist()", "those of another row"),
        M("blocks[row] = [ids[-1], *observation]", "blocks[row] = [*observation]",
          "the model does not see the last token of its own turn"),
        M("(tokens[: -written[r]],", "(tokens[: -written[r] - 1],", "the end of a turn is lost"),
        M("at + going, going & ~ended", "at + going, ~ended", "a turn goes on after its end"),
        M("mask = slots <= positions", "mask = slots < positions", "a token does not attend to itself"),
        M("len(blocks)], counts - 1]", "len(blocks)], -1]", "short blocks predict from padding"),
        M("min(len(commonprefix(prompts)), min(map(len, prompts)) - 1)", "len(commonprefix(prompts))",
          "equal prompts leave no token to predict from"),
        M("torch.full((n,), shared,", "torch.full((n,), 0,",
          "what is shared is written over"),
        M("+ len(tokens) >= self.sampling", "+ len(tokens) > self.sampling", "a full trajectory goes on"),
        M("len(trajectory.completion_ids) + len(tokens) >=", "len(trajectory.completion_ids) >=",
          "an observation that does not fit is fed"),
        M('environment.cut("")', "pass", "a trajectory that is too long has no outcome"),
        M("if ids[-1] != self.chat.end_of_turn:", "if not ids:", "an unfinished turn is read as a finished one"),
        M("max_completion_tokens // 4", "max_completion_tokens // 2", "an observation takes half of the context"),
        M("Trajectory(group.task_id, first + g,", "Trajectory(group.task_id, g,", "later groups bear earlier numbers"),
        M("+= self.going[:rows]", "+= 1", "rows that have ended grow"),
        M("kept[places] = kept[rows]", "pass", "a row that takes another's place forgets what it has written"),
        M("generator=self.random[row])", "generator=self.generator)", "random numbers hang on who else is played"),
    ),
)  # fmt: skip

SCORING = Group(
    "agent/scoring.py",
    (
        "tests/test_rollout.py::test_a_shared_turn_is_one_stretch_of_the_tree",
        "tests/test_sampling.py::test_log_probability_and_entropy_are_those_of_the_categorical_distribution",
        "tests/test_rollout.py::test_prefix_shared_scoring_gives_the_log_probabilities_and_gradients_of_plain_scoring",
        "tests/test_rollout.py::test_branches_after_turns_of_different_lengths_see_no_padding",
        "tests/test_sampling.py::test_the_engine_records_what_training_computes",
        "tests/test_rollout.py::test_turns_that_trajectories_share_are_run_once_and_scored_alike",
    ),
    (
        M("head(states).float() / temperature", "head(states).float()", "training knows no temperature"),
        M("head(states).float() / temperature", "head(states).float() * temperature", "the temperature upside down"),
        M("-(log_p.exp() * log_p).sum(-1)", "-log_p.mean(-1)", "entropy without its weights"),
        M("-(log_p.exp() * log_p)", "(log_p.exp() * log_p)", "negative entropy"),
        M("log_p.gather(1, targets[:, None])", "log_p[:, :1]", "log-probability of another token"),
        M("hidden[:, :-1]], 1)", "hidden[:, 1:]], 1)", "a token is predicted from itself"),
        M("places = mask.sum(1)[after, None] +", "places = mask.shape[1] +", "positions count the padding"),
        M("(prompt_mask.cumsum(1) - 1).clamp(min=0)", "prompt_mask.cumsum(1)", "prompts stand one place later"),
        M("own.sum(1) - 1][:, None]", "-1][:, None]", "branches grow from padding"),
        M("torch.cat([mask[after], own], 1)", "torch.cat([mask[after], torch.ones_like(own)], 1)",
          "branches attend to padding"),
        M("all(turns[row][end : end + 1] == [first[end]] for row in rows)",
          "all(len(turns[row]) > end for row in rows)",
          "turns that differ are taken for one"),
        M("alike.setdefault(own[at], [])", "alike.setdefault(own[at][:1], [])",
          "turns that begin alike are taken for one"),
        M("(actions[i] and not actions[i - 1])", "actions[i]", "every action token is a turn: nothing is shared"),
        M("lengths[row] < least * longest", "lengths[row] > least * longest", "batches of much padding"),
        M("stretch.first = scored", "stretch.first = 0", "log-probabilities of other rows"),
        M("last.index_select(0, after)", "last[: len(after)]", "a branch begins from another prompt"),
    ),
)  # fmt: skip

PROTOCOL = Group(
    "agent/protocol.py",
    ("tests/test_protocol.py",),
    (
        M("TOP = 10", "TOP = 9", "an answer has nine numbers"),
        M("1 <= n <= n_candidates", "0 <= n <= n_candidates", "candidate 0"),
        M("1 <= n <= n_candidates", "1 <= n < n_candidates", "the last candidate cannot be named"),
        M("len(set(numbers)) != TOP", "len(numbers) != TOP", "a candidate may stand in the answer twice"),
        M("_TURN.fullmatch(text.strip())", "_TURN.search(text.strip())", "text may stand around a turn"),
        M(r"\\boxed\{([AB])\}", r"\\boxed\{([A-Z])\}", "C is an answer"),
        M('set(call) != {"name", "arguments"}', 'not set(call) >= {"name", "arguments"}', "a call may hold more keys"),
        M('call["name"] not in tools', 'call["name"] not in TOOLS', "tools that were handed in cannot be called"),
        M("text.count(tag) < 2", "text.count(tag) < 3", "two tags of a kind are tried on the pattern",
          "The check of each part for tags refuses such a turn too; the count only keeps the pattern's time linear."),
        M('_parse_list if kind == "rank"', '_parse_list if kind != "less"', "MORE wants a list"),
        M("if len(part) < 7 else 0", "if len(part) < 3 else 0", "candidate 100 cannot be named"),
        M('with numbers only.", bad_answer=True', 'with numbers only.", bad_answer=False', "counts as a bad turn"),
        M(", re.ASCII)", ")", "digits of other scripts are numbers"),
    ),
)  # fmt: skip

ENVIRONMENT = Group(
    "agent/environment.py",
    ("tests/test_protocol.py",),
    (
        M("self.n_calls >= self.max_calls", "self.n_calls > self.max_calls", "an eleventh call"),
        M("MAX_CALLS = 10", "MAX_CALLS = 11", "another budget than the paper's"),
        M("self.n_calls += 1", "self.n_calls += 0", "calls are not counted"),
        M('"bad_answer" if turn.bad_answer else "bad_turn"', '"bad_turn" if turn.bad_answer else "bad_answer"',
          "outcomes are mixed up"),
        M("len(self.context.candidates)", "20", "other numbers of candidates are not known"),
        M("len(self.context.candidates), tools_of(self.context))", "len(self.context.candidates))",
          "tools that were handed in cannot be called"),
        M('self._end("length")', 'self._end("bad_turn")', "a cut turn counts as a bad one"),
        M("self.answer = turn.answer", "self.answer = None", "the answer is lost"),
    ),
)  # fmt: skip

GRPO = Group(
    "training/grpo.py",
    (
        "tests/test_grpo.py::test_the_step_is_the_papers_gradient_computed_by_hand",
        "tests/test_grpo.py::test_rows_without_advantage_and_observations_are_not_scored",
        "tests/test_grpo.py::test_every_step_has_random_numbers_of_its_own",
        "tests/test_grpo.py::test_groups_that_are_all_negative_are_masked_and_the_others_still_count",
        "tests/test_grpo.py::test_when_every_group_is_dropped_no_weight_moves_even_with_momentum",
        "tests/test_grpo.py::test_every_adapter_weight_moves_and_no_other",
    ),
    (
        M("torch.tensor(advantages, dtype", "torch.tensor(-advantages, dtype", "bad rollouts are made likelier"),
        M('batch["tool_mask"] * (batch["advantages"] != 0)[:, None]', 'batch["tool_mask"]',
          "rows without advantage are scored for nothing"),
        M('inputs["completion_mask"] * inputs["tool_mask"]', 'inputs["completion_mask"]', "observations are scored"),
        M("if self.skipped or all(t.dropped for t in self.trajectories):", "if self.skipped:",
          "momentum moves weights without evidence"),
        M("all(t.dropped for t", "any(t.dropped for t", "one dropped group stops the whole step"),
        M("self.seed * 1_000_003 + self.state.global_step", "self.seed * 1_000_003", "every step draws the same"),
        M("self.seed * 1_000_003 + self", "1_000_003 + self", "every seed draws the same"),
        M("np.repeat(dropped, self.num_generations)", "np.tile(dropped, self.num_generations)",
          "other rollouts are marked as dropped"),
        M("(prompts[1:] != prompts[:-1]).any(1)", "(prompts[1:] != prompts[:-1]).all(1)",
          "different prompts are taken for one"),
        M("group_of, self.temperature,", "group_of, 1.0,", "training knows no temperature"),
        M("self.advantages([t.reward for t in self.trajectories], self.num_generations)",
          "group_advantages([t.reward for t in self.trajectories], self.num_generations)",
          "advantages that were handed in are not used"),
    ),
)  # fmt: skip

MINING = Group(
    "training/mining.py",
    ("tests/test_mining.py", "tests/test_rewards.py"),
    (
        M("answer[: answer.index(positive)]", "answer[: answer.index(positive) + 1]",
          "the positive is its own negative"),
        M("if positive in answer else answer)", "if positive in answer else ())", "missed positives are not mined"),
        M("int(rng.choice(pool))", "int(pool[0])", "the hardest negative, not a random one"),
        M("np.random.default_rng((seed, 5))", "np.random.default_rng((0, 5))", "every seed mines the same negatives"),
        M("positive_first == (kind == \"more\")", "positive_first", "LESS is answered like MORE"),
        M("positive_first = rng.random() < 0.5", "positive_first = True", "the letter gives the answer away"),
        M("(pair.positive, pair.negative) if positive_first else (pair.negative, pair.positive)",
          "(pair.positive, pair.negative)", "letters do not belong to their items"),
        M("rng.permutation(len(mined))", "range(len(mined))", "pairs come in the order of mining"),
        M("np.random.default_rng((seed, 6))", "np.random.default_rng((0, 6))", "every seed asks in the same order"),
        M('"rank", pair.positive, None', '"rank", pair.negative, None', "rehearsal rewards the negative"),
    ),
)  # fmt: skip

STEP_METRICS = Group(
    "training/metrics.py",
    ("tests/test_step_metrics.py",),
    (
        M("groups.max(1).mean()", "groups.mean(1).max()", "the best group, not the best of each group"),
        M("if t.reward > 0]", "if t.reward >= 0]", "a wrong letter is right"),
        M("np.ptp(groups, axis=1) == 0", "groups.max(1) == 0", "only groups of zeros are without advantage"),
        M("(groups < 0).all(1)", "(groups < 0).any(1)", "one bad rollout drops its group"),
        M("surprise = [-p for", "surprise = [p for", "negative entropy"),
        M("strict=False) if mine]", "strict=False)]", "observations lower the entropy"),
        M('if t.kind != "rank"]', 'if t.kind == "more"]', "only one direction of pairs is counted"),
        M("sum(t.action_mask)", "len(t.action_mask)", "observations count as actions"),
        M('if step.kind == "call" and step.tool', "if step.tool", "a call counts twice, with its observation"),
        M("t.n_calls > 0 for t in positive", "t.n_calls > 0 for t in trajectories", "all, not the right ones"),
        M("calls[name] / len(trajectories)", "calls[name] / sum(calls.values())", "a share, not calls a trajectory"),
    ),
)  # fmt: skip

SPLIT = Group(
    "data/split.py",
    ("tests/test_data.py::test_split_shares", "tests/test_data.py::test_a_cut_falls_before_all_rows_of_its_moment",
     "tests/test_data.py::test_a_log_whose_first_moment_is_most_of_it_cannot_be_split",
     "tests/test_data.py::test_each_part_is_strictly_later_than_the_one_before"),
    (
        M("EARLY_SHARE = 0.8", "EARLY_SHARE = 0.9", "another share of train for RL"),
        M('side="left"', 'side="right"', "a moment goes to the earlier part"),
        M('"train_late": "train_early"', '"train_late": "train"', "tools have seen the answers of training tasks"),
        M('"validation": "train"', '"validation": "train_early"', "validation is not served as the test is"),
        M("fractions[0] + fractions[1]", "fractions[0] + fractions[2]", "validation and test change their shares"),
        M("if not 0 < ends[0] < ends[1]", "if not 0 <= ends[0] <= ends[1]", "a part may be empty"),
    ),
)  # fmt: skip

TASKS = Group(
    "data/tasks.py",
    (
        "tests/test_data.py::test_candidates_are_drawn_from_the_list_of_negatives",
        "tests/test_data.py::test_no_row_that_can_be_a_task_is_left_out",
        "tests/test_data.py::test_what_somebody_else_draws_must_be_fair",
        "tests/test_data.py::test_tasks_depend_on_seed_part_and_row_only",
        "tests/test_data.py::test_tasks_are_found_by_their_ids",
        "tests/test_data.py::test_every_task_asks_about_the_future_only",
    ),
    (
        M('cutoff, side="left")', 'cutoff, side="right")', "the history holds the answer"),
        M('numbers, side="right")', 'numbers, side="left")', "a user's own items are negatives"),
        M("user_rows[self.first_time[user_rows]]", "past[self.first_time[past]]", "items of the future are negatives"),
        M("self._n_earlier()[shuffled] >= min_history", "self._n_earlier()[shuffled] > min_history",
          "one more earlier item is asked for"),
        M("- own >= self.n_candidates - 1", "- own > self.n_candidates - 1",
          "rows with just enough negatives are lost"),
        M("(self.place[self.items] >= 0) & self.first_time", "(self.place[self.items] >= 0)",
          "an item taken again is asked about: the history gives it away"),
        M("past[-self.history_length :]", "past[: self.history_length]", "the oldest items, not the latest"),
        M("rng.permutation(np.append(drawn, pool.positive))", "np.append(drawn, pool.positive)",
          "the positive is always the last"),
        M("n - 1, replace=False)", "n - 1, replace=True)", "a candidate comes twice"),
        M("np.random.default_rng([*self.seeds, row])", "np.random.default_rng(self.seeds)", "all tasks draw the same"),
        M("[seed, list(FITTED_ON).index(part)]", "[seed, 0]", "parts share their random numbers"),
        M("np.argmax(candidates == positive)) + 1", "np.argmax(candidates == positive))", "candidates count from 0"),
        M(" | (times[1:] != times[:-1])", "", "nothing a user did is earlier than anything else"),
        M("np.unique(self.items[split.fit_rows(part)])", 'np.unique(self.items[split.rows("train")])',
          "candidates that the tools cannot know"),
        M(" & ~np.isin(others, pool.catalogue[pool.own])", "", "an own draw may take items of the user"),
        M("len(set(candidates.tolist())) != self.n_candidates", "not len(candidates)",
          "an own draw may take an item twice"),
        M("[self._drawer.task(int(row)) for row in rows]", "[self._drawer.task(int(row)) for row in sorted(rows)]",
          "found tasks come in another order than asked for"),
    ),
)  # fmt: skip

METRICS = Group(
    "evaluation/metrics.py",
    ("tests/test_metrics.py",),
    (
        M("1 / np.log2(ranks + 1)", "1 / np.log2(ranks + 2)", "N@k is too low"),
        M("ranks <= int(cutoff)", "ranks < int(cutoff)", "the k-th place does not count"),
        M("not (ranks >= 1).all()", "not (ranks >= 0).all()", "rank 0 gives infinite gains"),
        M("np.argsort(-np.asarray(scores", "np.argsort(np.asarray(scores", "the lowest score is the best"),
        M('axis=1, kind="stable")', 'axis=1, kind="heapsort")', "equal scores change places"),
        M("return 1.0 + np.argmax", "return 0.0 + np.argmax", "ranks from 0"),
        M("[2.5, 97.5]", "[5, 95]", "a 90 % interval"),
        M("np.unique(users, return_inverse=True)", "(np.arange(len(users)), np.arange(len(users)))",
          "tasks are resampled, not users"),
        M("(draws @ np.bincount(codes))[:, None]", "len(codes)", "the number of tasks drawn is not divided by"),
        M("gains(ranks_a, metric) - gains(ranks_b, metric)", "gains(ranks_b, metric) - gains(ranks_a, metric)",
          "the difference has the wrong sign"),
        M("np.random.default_rng(seed).multinomial", "np.random.default_rng(0).multinomial", "the seed has no effect"),
        M("multinomial(n, np.full(n, 1 / n)", "multinomial(1, np.full(n, 1 / n)", "one user is drawn, not n"),
    ),
)  # fmt: skip

EVALUATE = Group(
    "evaluation/evaluate.py",
    (
        "tests/test_evaluate.py::test_a_missing_positive_and_an_invalid_answer_have_no_rank",
        "tests/test_evaluate.py::test_the_ceiling_is_the_optimum_of_the_penalised_likelihood",
        "tests/test_evaluate.py::test_the_ceiling_recovers_the_weights_that_made_the_choices",
        "tests/test_evaluate.py::test_random_ranks_are_uniform_and_seeded",
    ),
    (
        M("trajectory.answer.index(task.positive) + 1", "trajectory.answer.index(task.positive)", "ranks from 0"),
        M("np.full(len(tasks), np.inf)", "np.full(len(tasks), 10.0)", "a missing positive stands at the tenth place"),
        M("gradient / n + 2 * penalty * weights", "gradient / n", "the penalty has no gradient"),
        M("gradient / n + 2 * penalty * weights", "gradient / n + penalty * weights", "half of the penalty's gradient"),
        M(" + penalty * weights @ weights", "", "the penalty is not in the loss"),
        M("log_softmax(features @ weights, axis=1)", "log_softmax(features @ weights, axis=0)",
          "a softmax over tasks, not candidates"),
        M("np.asarray(positives) - 1", "np.asarray(positives) - 2", "another candidate was chosen"),
        M("rng.integers(1, len(task.candidates) + 1)", "rng.integers(1, len(task.candidates))", "never the last place"),
        M("np.random.default_rng((seed, 77))", "np.random.default_rng((0, 77))", "the seed has no effect"),
    ),
)  # fmt: skip

GROUPS = (
    REWARDS, SAMPLING, ROLLOUT, SCORING, PROTOCOL, ENVIRONMENT, GRPO, MINING, STEP_METRICS, SPLIT, TASKS, METRICS,
    EVALUATE,
)  # fmt: skip
