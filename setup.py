"""What pyproject.toml cannot say: a wheel carries nano and the generated stores, which lie in data/."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARRIED = ("nano", "toystore", "moodstore")


class WithData(build_py):
    """Copies them to agenticrec_lite/carried_data; an editable installation finds them in the checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in CARRIED:
                target = Path(self.build_lib, "agenticrec_lite", "carried_data", name)
                shutil.copytree(Path("data", name), target, dirs_exist_ok=True)


setup(cmdclass={"build_py": WithData})
