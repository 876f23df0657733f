#!/usr/bin/env python3
"""Writes the first cases of every target: the contract's test vectors as cases, and hard ones by hand.

Usage: fuzz/seeds.py FOLDER; the cases of a target go to FOLDER/TARGET. What of them reaches something of its own ends in
fuzz/corpus by `scripts/fuzz --merge`.
"""

import hashlib
import json
import sys
from pathlib import Path

VECTORS = Path(__file__).resolve().parent.parent / "tests" / "vectors"
SCENARIOS = [
    "check_projection", "completions", "duplicates", "executions_counters", "feeds", "inventory_and_history",
    "inventory_stream", "malformed", "missing_objects", "start_result_order", "whole_scenarios",
]
JOB = {"id": "j", "version": "1", "execute": {"shell": "sh", "timeout": "30s"}}


def inputs(name):
    document = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return [case["input"] for case in document["cases"]]


def text(value):
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def payload(given):
    if "text" in given:
        return given["text"].encode("utf-8", "surrogatepass")
    if "hex" in given:
        return bytes.fromhex(given["hex"])
    return text(given["json"])


def case(*parts):
    return b"\n---\n".join(part if isinstance(part, bytes) else part.encode() for part in parts)


def results():
    yield from map(payload, inputs("exec_result_decode"))
    yield from map(payload, inputs("exec_result_identity"))
    for scenario in SCENARIOS:
        for given in inputs(scenario):
            yield from (payload(message) for message in given["messages"] if message["stream"] == "RESULTS")
    for time in inputs("timestamps"):
        yield text({"request_id": "q", "pc_id": "p", "exit_code": 0, "stdout": "", "stderr": "", "started_at": time,
                    "finished_at": "2016-12-31T23:59:60.5+00:00"})


def starts():
    yield from map(payload, inputs("event_started_decode"))
    for given in inputs("reap_deadline"):
        timeout = given.get("timeout") if isinstance(given, dict) else given
        yield text({"result_id": "r", "request_id": "q", "exec_id": "e", "pc_id": "p", "manifest_id": "m",
                    "version": timeout or "1M 2.5h", "started_at": "9999-12-31T23:59:59.999999999Z"})


def inventory():
    for given in inputs("hw_inventory_decode"):
        yield case("inventory.PC-1.hw", payload(given))
    for given in inputs("inventory_stream"):
        for message in given["messages"]:
            yield case(message["subject"], payload(message))
    yield case("inventory.a.b.net", b' {"ip": [1e3, {"x": "\\ud83d\\ude00"}]}\n')
    yield case("inventory..", b"{}")


def manifests():
    documents = list(map(payload, inputs("manifest_decode")))
    yield from documents
    for scenario in SCENARIOS:
        for given in inputs(scenario):
            jobs = [text(document) for document in given.get("kv_jobs", {}).values()]
            if jobs:
                yield case(*jobs)
    specs = inputs("explode_spec")
    for given in specs:
        yield text(JOB | {"inventory": {"display": [], "explode": [given]}})
    yield case(*(text(JOB | {"inventory": {"display": [], "explode": [given, given]}}) for given in specs[:6]))
    for given in inputs("explode_table_refusal"):
        yield text(JOB | {"inventory": {"display": [], "explode": [given] if "table" in given else []}, "x": given})
    for name in inputs("explode_identifiers"):
        column = {"field": name, "type": "real", "index": True}
        yield text(JOB | {"inventory": {"display": [], "explode": [
            {"field": "x", "table": name, "primary_key": [name], "columns": [column, {"field": "rowid"}]}]}})


def history():
    for name in ("explode_replace", "explode_schema_change"):
        for given in inputs(name):
            specs = [step["spec"] for step in given["steps"] if "spec" in step]
            scans = [text(step["payload"]) for step in given["steps"] if "payload" in step]
            specs = [spec | {"track_history": True} for spec in specs]
            yield case(text({"display": [], "explode": specs}), *scans)
    for given in inputs("history_scalars"):
        old = given["prior_facts_json"]
        scans = ([old] if old is not None else []) + [text(given["new"])]
        yield case(text({"display": [], "history_scalars": given["history_scalars"]}), *scans)
    for given in inputs("inventory_and_history"):
        for job in given["kv_jobs"].values():
            if "inventory" in job:
                outputs = [message["json"]["stdout"] for message in given["messages"] if "json" in message]
                yield case(text(job["inventory"]), *(output.encode() for output in outputs))
    columns = [{"field": "k"}, {"field": "t"}, {"field": "i", "type": "integer"}, {"field": "r", "type": "real"}]
    for key in (["k"], ["i", "r"], ["r"]):
        spec = {"field": "a", "table": "t", "primary_key": key, "columns": columns, "track_history": True}
        values = [given.get("value") for given in inputs("explode_conversion")]
        scan = [{"k": str(at), "t": value, "i": value, "r": value} for at, value in enumerate(values)]
        for at in range(0, len(scan), 10):
            yield case(text({"display": [], "explode": [spec], "history_scalars": ["a", "b"]}),
                       text({"a": scan[at:at + 10], "b": 1}), text({"a": scan[at + 10:at + 14] + scan[at:at + 4], "b": 1.0}))
    for raw in inputs("compact_json"):
        yield case(text({"display": [], "history_scalars": ["a"]}), raw if isinstance(raw, str) else text(raw))


def hints():
    for given in inputs("check_status_eval"):
        yield case(text(JOB | {"check": given["hint"]}), str(given["exit_code"]), given.get("stdout") or "",
                   given.get("stderr") or "")
    for given in inputs("feed_replace"):
        for step in given["steps"]:
            yield case(text(JOB | {"feed": [step["spec"]]}), "0", text(step["payload"]))
    for given in inputs("feed_item_id"):
        key = given.get("primary_key", ["a"])
        element = given.get("element", given.get("item", {}))
        yield case(text(JOB | {"feed": [{"id": "f", "field": "v", "primary_key": key}]}), "0",
                   text({"v": [element, element, {}, {name: None for name in key}]}))
    yield case(text(JOB | {"check": {"name": "c"}, "feed": [{"id": " f ", "field": "v", "primary_key": ["a", "b"]}]}), "0",
               '#KANADE-CHECK-BEGIN\n{"status":"fail","detail":[1]}\n#KANADE-CHECK-END\n#KANADE-FEED-BEGIN'
               '{"v":[{"a":"1:","b":"2"},{"a":"1","b":":2"},{"a":1,"b":{}}]}\n', "\u3042" * 300)


def fences():
    yield from (given.encode() for given in inputs("fences"))
    for begin in ("INVENTORY", "CHECK", "FEED", "COLLECT"):
        for between in ("", "\n", "\r\n", "X\n", " \n\t"):
            yield f"#KANADE-{begin}-BEGIN{between}#KANADE-{begin}-END{between}#KANADE-{begin}-BEGIN".encode()
    yield b"\xff\n#KANADE-FEED-BEGIN\xfe\n\xc2\n#KANADE-FEED-END\xff"


def names():
    for given in inputs("subjects") + inputs("object_names"):
        values = [value for name, value in given.items() if name != "fn"]
        yield case(*map(str, values))
    for given in inputs("config_keys"):
        yield given["value"].encode()
    for more in ("RESULTS", "events", "0123456789abcdef", "+123456789abcdef", "results.", "events.started.a.b.c",
                 "inventory..hw", "q/stdout", "q/p/x/stderr.r1.h2", "/stdout", "groups.pcs.x"):
        yield more.encode()


def config():
    yield b""
    every = Path(__file__).resolve().parent.parent / "src" / "config" / "settings.rs"
    keys = [line.split('"')[1] for line in every.read_text(encoding="utf-8").splitlines()
            if line.strip().startswith(('key: "', '"')) and "." in line.split('"')[1] and " " not in line.split('"')[1]]
    for key in keys:
        section, name = key.split(".", 1)
        for value in ('"1 MiB"', "5", '"5 min"', '"x"', "true"):
            yield f"[{section}]\n{name} = {value}\n".encode()
    yield b'[store]\nsynchronous = "normal"\npath = "a\\u0000b"\n[nats]\nurl = "nats://u:secret@h,tls://h"\nuser = "me"\n' \
          b'password_file = "p"\ncert = "c"\nkey = "k"\n[source]\nack_wait = "1h 30m"\nheartbeat = "1s"\nconsumer_prefix = "a-b"\n'
    yield b'# \xc3\xa9\noutputs = { max_bytes = "1 KiB", concurrency = 0x10 }\ngroup.max_rows = 1_000\n"log".level = \'debug\''
    yield case(b"[group]\nmax_rows = 3\n", "NATS_URL=nats://a@b\nRESULTS_PROJECTOR_GROUP_MAX_TIME=9 s\nRESULTS_PROJECTOR_DB=x")
    yield b"[outputs]\n\nmax_byte = 1\n"
    yield b"[nonsense]\n"
    yield b"[store\n"
    yield b"\xff"


def stream():
    for scenario in SCENARIOS:
        for given in inputs(scenario):
            yield text(given)


def main():
    folder = Path(sys.argv[1])
    for make in (config, fences, hints, history, inventory, manifests, names, results, starts, stream):
        target = folder / make.__name__
        target.mkdir(parents=True, exist_ok=True)
        for seed in make():
            (target / hashlib.sha1(seed).hexdigest()[:16]).write_bytes(seed)


main()
