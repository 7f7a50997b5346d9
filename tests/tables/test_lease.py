"""One writer at a time, by a number that rises with each holder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from factorlake.errors import LeaseHeldError
from factorlake.tables.lease import Lease


def test_a_second_holder_is_refused_by_name_of_the_first(tmp_path: Path) -> None:
    with Lease(str(tmp_path / "lease"), "first"), pytest.raises(LeaseHeldError, match="first") as caught:
        Lease(str(tmp_path / "lease"), "second").__enter__()
    assert caught.value.exit_code == 5


def test_a_holder_that_has_not_yet_told_its_name_is_respected(tmp_path: Path) -> None:
    (tmp_path / "lease").mkdir()
    (tmp_path / "lease" / "000000001.json").touch()
    with pytest.raises(LeaseHeldError, match="another run, which has just started, is writing under"):
        Lease(str(tmp_path / "lease"), "second").__enter__()


def test_numbers_rise_with_each_holder(tmp_path: Path) -> None:
    numbers = []
    for name in ("a", "b", "c"):
        with Lease(str(tmp_path / "lease"), name) as lease:
            numbers.append(lease.check())
    assert numbers == [1, 2, 3]


def test_a_holder_that_was_killed_is_followed_at_once(tmp_path: Path) -> None:
    folder = str(tmp_path / "lease")
    program = (
        "import os, signal; from factorlake.tables.lease import Lease; "
        f"Lease({folder!r}, 'dead').__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -9
    with Lease(folder, "next") as lease:
        assert lease.check() == 2


def test_a_holder_past_its_time_finds_its_number_passed(tmp_path: Path) -> None:
    folder = str(tmp_path / "lease")
    sleeper = Lease(folder, "sleeper", seconds_to_live=3600)
    with sleeper:
        file = next((tmp_path / "lease").glob("*.json"))
        os.utime(file, (0, 0))  # as a stopped process leaves it
        with Lease(folder, "next") as follower:
            with pytest.raises(LeaseHeldError, match="passed to another run"):
                sleeper.check()
            assert follower.check() == 2


def test_a_holder_in_another_container_of_the_same_name_is_not_taken_for_dead(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with Lease(str(tmp_path / "lease"), "first"):
        file = next((tmp_path / "lease").glob("*.json"))
        # Its process has a number that no process has here.
        file.write_text(json.dumps({**json.loads(file.read_text()), "pid": ended.pid, "pids": "pid:[of another]"}))
        with pytest.raises(LeaseHeldError, match="first"):
            Lease(str(tmp_path / "lease"), "second").__enter__()
        os.utime(file, (0, 0))
        with Lease(str(tmp_path / "lease"), "second") as follower:
            assert follower.check() == 2


RIVAL = """
import os, sys
from factorlake.errors import LeaseHeldError
from factorlake.tables.lease import Lease

folder, mark = sys.argv[1:]
held = tried = 0
while held < 50 or tried < 250:
    tried += 1
    try:
        with Lease(folder, "rival") as lease:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))  # fails where another is inside
            held += lease.check() > 0
            os.unlink(mark)
    except LeaseHeldError:
        pass
print(held)
"""


def test_of_four_processes_that_try_a_thousand_times_and_more_no_two_hold_it_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RIVAL, str(tmp_path / "lease"), str(tmp_path / "mark")]
    rivals = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    told = [rival.communicate() for rival in rivals]
    assert [(rival.returncode, errors) for rival, (_, errors) in zip(rivals, told, strict=True)] == [(0, "")] * 4
    assert all(int(out) >= 50 for out, _ in told)


def test_a_holder_whose_name_finds_no_room_on_the_disk_leaves_no_lease_behind(tmp_path: Path) -> None:
    folder = str(tmp_path / "lease")
    program = (
        "import resource, signal; from factorlake.tables.lease import Lease; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8)); "
        f"Lease({folder!r}, 'first').__enter__()"
    )
    failed = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert "OSError: [Errno 27] File too large" in failed.stderr
    with Lease(folder, "second") as lease:
        assert lease.check() == 1
