"""Three hundred steps of nano in one process: memory, open files and the time of a step stay what they were."""

import ctypes
import gc
import os
import platform
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_resume import small_log

from agenticrec_lite.experiment import experiment, stages

SOAK = {
    "agent": {"max_calls": 2},
    "rta": {"steps": 300, "tasks_per_step": 1, "group_size": 3, "micro_groups": 1, "learning_rate": 1e-4},
    "evaluation": {"n_test": 4},
}
OPEN_FILES = Path("/proc/self/fd")


def resident(kept: bool = True) -> float:
    """Memory of this process in MB; without what is `kept`: pages that are free, but that malloc has not given back.

    Those come and go with the sizes of the batches, by some 40 MB.
    """
    if not kept:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="reads /proc, and asks glibc to give back free pages")
def test_three_hundred_steps_leak_nothing_and_do_not_slow_down(tmp_path, monkeypatch, record_property):
    monkeypatch.setattr(experiment, "load_dataset", lambda name: small_log(name, users=160))
    opened = experiment.start("small", "nano", 0, tmp_path / "run", SOAK)
    memory, in_use, handles, clock, threads = [], {}, [], [], torch.get_num_threads()

    def watch(history):
        memory.append(resident())
        if len(history) in (30, 300):
            in_use[len(history)] = resident(kept=False)
        handles.append(len(list(OPEN_FILES.iterdir())))
        clock.append(time.process_time())

    try:
        torch.set_num_threads(1)
        with opened.run:
            stages.train_rta(opened, watch)
    finally:
        torch.set_num_threads(threads)
    steps = np.diff(clock)  # the processor's time: other programs of this machine do not count
    assert len(memory) == 300
    second, last = np.median(steps[100:200]), np.median(steps[200:])
    figures = (
        f"memory in use {in_use[30]:.0f} MB at step 30, {in_use[300]:.0f} at 300 (with free pages "
        f"{memory[29]:.0f}, {memory[-1]:.0f}); open files {handles[29]}, {handles[-1]}; "
        f"a step {second:.3f} s in the second third, {last:.3f} in the last"
    )
    print(figures)
    record_property("detail", figures)
    assert in_use[300] < 1.05 * in_use[30], figures
    assert handles[-1] <= handles[29], figures
    assert last < 1.15 * second, figures
