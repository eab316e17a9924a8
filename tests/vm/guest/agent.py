#!/usr/bin/python3
"""The root shell of the tests: does what the host asks over a virtio port, one JSON object a line.

Asked:    {"id": N, "run": [ARGV], "env": {…}, "input": TEXT}   {"id": N, "put": PATH, "mode": M, "data": BASE64, "more": BOOL}
Answered: {"id": N, "out": BASE64} as it is printed, then {"id": N, "status": S}; {"hello": BOOT ID} to {"hello": …}.
"""
import base64
import glob
import json
import os
import subprocess
import threading
import time

PORT = "/dev/vport*p1"
answering = threading.Lock()
children = {}


def open_port():
    while not glob.glob(PORT):
        time.sleep(0.05)
    return os.open(glob.glob(PORT)[0], os.O_RDWR)


def answer(port, **what):
    line = json.dumps(what).encode() + b"\n"
    with answering:
        while line:
            line = line[os.write(port, line):]


def run(port, ask):
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8",
           **ask.get("env", {})}
    try:
        child = subprocess.Popen(ask["run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 env=env, cwd="/root", start_new_session=True)
    except OSError as error:
        answer(port, id=ask["id"], out=base64.b64encode(f"{error}\n".encode()).decode())
        return answer(port, id=ask["id"], status=127)
    children[ask["id"]] = child
    try:
        child.stdin.write(ask.get("input", "").encode())
        child.stdin.close()
    except BrokenPipeError:
        pass
    while part := os.read(child.stdout.fileno(), 32768):
        answer(port, id=ask["id"], out=base64.b64encode(part).decode())
    status = child.wait()
    children.pop(ask["id"], None)
    answer(port, id=ask["id"], status=status)


def put(port, ask):
    try:
        os.makedirs(os.path.dirname(ask["put"]) or "/", exist_ok=True)
        with open(ask["put"] + ".part", "ab") as out:
            out.write(base64.b64decode(ask["data"]))
        if not ask.get("more"):
            os.chmod(ask["put"] + ".part", ask.get("mode", 0o644))
            os.rename(ask["put"] + ".part", ask["put"])
        answer(port, id=ask["id"], status=0)
    except OSError as error:
        answer(port, id=ask["id"], out=base64.b64encode(f"{error}\n".encode()).decode())
        answer(port, id=ask["id"], status=1)


def serve(port, ask):
    if "hello" in ask:
        answer(port, hello=open("/proc/sys/kernel/random/boot_id").read().strip())
    elif "run" in ask:
        # A thread each, so that one command may be looked at with another.
        threading.Thread(target=run, args=(port, ask), daemon=True).start()
    elif "put" in ask:
        put(port, ask)
    elif "kill" in ask and ask["kill"] in children:
        os.killpg(children[ask["kill"]].pid, 9)


def main():
    port = open_port()
    waiting = b""
    while True:
        part = os.read(port, 1 << 16)
        if not part:
            # Nobody has connected on the host's side.
            time.sleep(0.05)
            continue
        *lines, waiting = (waiting + part).split(b"\n")
        for line in lines:
            if line.strip():
                serve(port, json.loads(line))


main()
