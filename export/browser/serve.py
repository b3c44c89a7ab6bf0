"""Serve the page and an artifact folder to this machine: `python serve.py ARTIFACTS [--port N]`.

Any static server does; this one lays the folder beside the page, and sends the two headers that
allow threads.
"""

import argparse
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Handler(SimpleHTTPRequestHandler):
    """Answers /artifacts/ from the artifact folder, and all else from the page's."""

    artifacts: Path
    # What the system says of these is wrong on some, and then nothing runs.
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def translate_path(self, path):
        """Return the file that an address stands for."""
        inside = path.startswith("/artifacts/")
        self.directory = str(self.artifacts if inside else HERE)
        return super().translate_path(path.removeprefix("/artifacts") if inside else path)

    def end_headers(self):
        """Add what makes a page cross-origin isolated."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *arguments):
        """Say nothing of a request."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artifacts", type=Path, help="a folder that keras-cnns export wrote")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    if not (arguments.artifacts / "manifest.json").is_file():
        parser.error(f"{arguments.artifacts} is not a folder that keras-cnns export wrote")
    if not (HERE / "node_modules").is_dir():
        parser.error(f"the runtimes are missing: npm ci --prefix {HERE}")
    Handler.artifacts = arguments.artifacts.resolve()
    with ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
