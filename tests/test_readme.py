"""The README: its first code block runs, CI runs its test command, and it stays short."""

import re
from pathlib import Path

from ase_deeph.matrix import RealSpaceMatrix

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_first_code_block_runs(capsys):
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block is not None
    names: dict = {}
    exec(block.group(1), names)
    assert isinstance(names["H"], RealSpaceMatrix)
    assert names["bands"].energies.shape[2] == names["H"].n_orbitals
    assert f"({names['H'].n_orbitals}, {names['H'].n_orbitals})" in capsys.readouterr().out


def test_ci_runs_the_test_command_of_the_readme():
    command = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)[1]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_short():
    assert len(README.split()) < 500
