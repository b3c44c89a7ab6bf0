"""Stands for keras_cnns.tune.trial: answers at once, or fails as the test wants it to.

The environment variable STUB has seconds for a trial, and what is to happen with some, by id.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time


def cores_of_this_process():
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def main():
    wanted = json.loads(os.environ.get("STUB", "{}"))
    line = sys.stdin.readline()
    if not line:
        sys.exit(1)
    job = json.loads(line)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    if log := wanted.get("log"):
        with open(log, "a") as file:
            told = [job[key] for key in ("id", "seed", "split", "load", "epochs")]
            cores = "-".join(map(str, cores_of_this_process()))
            file.write(" ".join(map(str, [*told, cores])) + "\n")
    time.sleep(wanted.get("seconds", 0))
    number = int(hashlib.sha256(json.dumps(job["spec"]).encode()).hexdigest(), 16)
    answer = {"score": (number + job["seed"] * 7919) % 997 / 997, "seconds": 0.1}
    match wanted.get(job["id"]):
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            print("a library's last words", file=sys.stderr)
            os._exit(3)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "nan":
            answer["score"] = float("nan")
        case "chatter":
            answer = "no answer"
        case "slow":
            answer = {"refused": "12.3 ms", "latency_ms": 12.3}
        case "stop":
            answer = {"stop": "OSError: no space left on device"}
        case "fail":
            answer = {"why": "out of memory: 3 GB", "seconds": 0.1}
    print(json.dumps(answer), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
