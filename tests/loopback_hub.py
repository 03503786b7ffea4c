"""A local server with the part of the Hugging Face hub's interface that its client uses."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_tests"
COMMIT = "c0ffee" * 6 + "c0de"


class Hub:
    """Repositories by name, each a dictionary of files, and a log of the requests."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.address = ""

    def fetched(self) -> set[str]:
        """Return the names of the files that were downloaded."""
        return {path.rpartition("/")[2] for method, path in self.requests if method == "GET" and "/resolve/" in path}


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, content: bytes | dict | list = b"", status: int = 200, **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self) -> bytes:
            if "Content-Length" in self.headers:
                return self.rfile.read(int(self.headers["Content-Length"]))
            content = b""  # in chunks
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def handle_request(self) -> None:
            path = self.path.partition("?")[0].strip("/")
            hub.requests.append((self.command, path))
            content = self.body() if self.command in ("POST", "PUT") else b""
            writes = path == "api/repos/create" or "/commit/" in path or "/preupload/" in path
            if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer({"error": "Invalid credentials"}, 401)
            words = path.split("/")
            if path == "api/repos/create":
                repository = json.loads(content)
                name = "/".join(filter(None, (repository.get("organization"), repository["name"])))
                hub.repositories.setdefault(name, {})
                return self.answer({"url": f"{hub.address}/{name}", "name": name})
            if path == "api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if words[0] == "lfs-blob":
                hub.blobs[words[1]] = content
                return self.answer()
            if words[:2] == ["api", "models"]:
                return self.api("/".join(words[2:4]), words[4:], content)
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = json.loads(content)["objects"]
                upload = [
                    blob | {"actions": {"upload": {"href": f"{hub.address}/lfs-blob/{blob['oid']}"}}}
                    for blob in objects
                ]
                return self.answer({"transfer": "basic", "objects": upload})
            return self.file("/".join(words[:2]), words[3:])

        def api(self, name: str, words: list[str], content: bytes) -> None:
            if name not in hub.repositories:
                return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            files = hub.repositories[name]
            if words[:1] == ["preupload"]:
                paths = [file["path"] for file in json.loads(content)["files"]]
                modes = ["lfs" if path.endswith((".png", ".safetensors")) else "regular" for path in paths]
                uploads = [
                    {"path": path, "uploadMode": mode, "shouldIgnore": False}
                    for path, mode in zip(paths, modes, strict=True)
                ]
                return self.answer({"files": uploads})
            if words[:1] == ["commit"]:
                for line in map(json.loads, content.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        files[value["path"]] = hub.blobs[value["oid"]]
                return self.answer(
                    {"success": True, "commitUrl": f"{hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
                )
            if words[:1] == ["tree"]:
                tree = [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in files.items()
                ]
                return self.answer(tree)
            if words[:1] == ["revision"] and words[1] not in ("main", "v1", COMMIT):
                return self.answer({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
            return self.answer({"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]})

        def file(self, name: str, words: list[str]) -> None:
            data = hub.repositories.get(name, {}).get("/".join(words[1:]))
            if data is None:
                return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            digest = hashlib.sha1(data).hexdigest()
            self.answer(data, 200, ETag=f'"{digest}"', X_Repo_Commit=COMMIT, Content_Length=str(len(data)))

        do_GET = do_HEAD = do_POST = do_PUT = handle_request

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
