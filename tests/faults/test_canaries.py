"""Ids of users and secrets reach no log, event log, report, data doc or message, not even where things break."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipelines.demo_lake import DEMO, DemoRun, overrides
from tests.reference.contents import read_table

pytestmark = [pytest.mark.spark, pytest.mark.faults, pytest.mark.soak]

IDS = [f"canaryid{n:03d}x{n * 7919 % 99991:05d}" for n in range(100)]
SECRETS = [f"canarysecret{n}y{n * 104729 % 99991:05d}" for n in range(5)]
# All in one process, as a notebook has it: every logger at DEBUG, Spark at INFO with an event log.
SCRIPT = """
import json, logging, sys

logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from factorlake.cli import invoke

print("codes", [invoke(argv) for argv in json.load(open(sys.argv[1]))])
"""
# Tables that are no place for a person: what runs, batches and models tell of themselves.
NAMELESS = ("runs", "validation_results", "ingest_ledger", "erasures", "main/models", "main/evaluation")


def plant(log: Path) -> None:
    """Add the canaries to a demo log: good records, ones that break each kind of rule, torn lines, and attributes."""
    tracks = [row.split(",", 1)[0] for row in (log / "tracks.csv").read_text().splitlines()[1:6]]
    people = (log / "listeners.csv").read_text().splitlines()
    last = people[-1].split(",", 1)[1]
    (log / "listeners.csv").write_text("\n".join([*people, *(f"{user},{last}" for user in IDS)]) + "\n")
    lines = []
    for n, user in enumerate(IDS):
        for track in tracks:
            event = {
                "listener": user,
                "track": track,
                "action": "play",
                "plays": 1,
                "at": f"2025-03-03T10:00:{n % 60:02d}Z",
            }
            lines.append(json.dumps(event))
        flaws: list[dict[str, Any]] = [
            {"at": user},
            {"plays": user},
            {"action": user},
            {"track": None},
            {"listener": f" {user} ", "at": ""},
        ]
        lines.append(json.dumps({**event, **flaws[n % len(flaws)]}))
        if n % 10 == 0:
            lines += [f'{{"listener": "{user}", "track": ', f"{user}\x00{user}", f'["{user}"]']
    (log / "events" / "zz-canaries.jsonl").write_text("\n".join(lines) + "\n")


def test_a_hundred_ids_and_five_secrets_are_found_nowhere_but_in_the_tables_of_users(
    demo_run: DemoRun, tmp_path: Path
) -> None:
    log, lake, events = Path(shutil.copytree(demo_run.log, tmp_path / "log")), tmp_path / "lake", tmp_path / "eventlog"
    plant(log)
    events.mkdir()
    (tmp_path / "ids.txt").write_text("\n".join(IDS[:3]) + "\n")
    (tmp_path / "table").mkdir()
    over: dict[str, Any] = {
        "spark": {
            "master": "local[2]",
            "driver_memory": "2g",
            "conf": {
                "spark.eventLog.enabled": "true",
                "spark.eventLog.dir": f"file://{events}",
                "spark.hadoop.fs.s3a.secret.key": "${CANARY_SECRET}",
                "spark.hadoop.fs.azure.account.key.store": SECRETS[1],
                "spark.hadoop.fs.azure.sas.store": SECRETS[2],
                "spark.factorlake.api-key": SECRETS[3],
            },
        },
        "validate": {
            "data_docs": True,
            "rules": [{"name": "denied", "type": "not_one_of", "column": "user_id", "values": IDS[50:60]}],
        },
    }
    (tmp_path / "over.yaml").write_text(yaml.safe_dump(over))
    sets = [
        part for value in overrides(lake, log, "demo=null", "validate.gate.history=false") for part in ("--set", value)
    ]
    common = ["--config", str(DEMO), "--config", str(tmp_path / "over.yaml"), *sets]
    wrong = f"validate.rules=[{{name: a, type: sql, condition: \"user_id = '{IDS[7]}' and nofunction('{IDS[8]}')\"}}]"
    verbs = [
        (["validate"], 3),
        (["run", "--set", "validate.gate.max_quarantined_share=0.001"], 3),
        (["run"], 0),
        (["validate", "--set", wrong], 2),
        (["evaluate", "--recommendations", str(tmp_path / "table"), "--name", "x"], None),
        (["forget", "--users-file", str(tmp_path / "ids.txt")], 0),
        (["forget", "--user", IDS[4]], 0),
        (["report"], 0),
        (["status"], 0),
    ]
    (tmp_path / "argv.json").write_text(json.dumps([[*argv, *common] for argv, _ in verbs]))
    environment = {**os.environ, "CANARY_SECRET": SECRETS[0], "AWS_SECRET_ACCESS_KEY": SECRETS[4]}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "argv.json")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    codes = json.loads(done.stdout.rpartition("codes ")[2])
    assert [code for code, (_, wanted) in zip(codes, verbs, strict=True) if wanted is not None] == [
        wanted for _, wanted in verbs if wanted is not None
    ], done.stderr[-3000:]

    told = {"stdout": done.stdout, "stderr": done.stderr}
    files = [*events.rglob("*"), *(lake / "main" / "reports").rglob("*")]
    told |= {str(path): path.read_text(errors="replace") for path in files if path.is_file()}
    told |= {name: str(read_table(lake / name).to_pylist()) for name in NAMELESS}
    assert sum(len(text) for text in told.values()) > 1_000_000, "so little was told that nothing was looked at"
    hits = [
        (place, text[max(0, at - 80) : at + 40])
        for place, text in told.items()
        for canary in [*IDS, *SECRETS]
        if (at := text.find(canary)) >= 0
    ]
    assert hits == []
    # They were there to be found.
    users = {row["id"] for row in read_table(lake / "users").to_pylist()}
    assert len(users & set(IDS)) == 100 - 10 - 4
