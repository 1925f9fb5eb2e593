"""schemathesis on /openapi.json: no answer with a status of 5xx, none that takes long, none that the document does not describe."""
import os
import pathlib
import subprocess
import sys
import tempfile

from checks import BASE

program = pathlib.Path(sys.executable).with_name("schemathesis")
checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
command = [program, "run", f"{BASE}/openapi.json", "--url", BASE, "--checks", checks, "--seed", "1", "--max-examples", "8"]
# An answer may have as many tokens as the context holds, and the machine may be busy.
command += ["--max-response-time", "120", "--request-timeout", "180", "--suppress-health-check", "too_slow"]
command += ["--continue-on-failure", "--workers", "2"]
# It keeps what it has seen where it is started.
with tempfile.TemporaryDirectory() as folder:
    sys.exit(subprocess.run(command, cwd=folder, env={**os.environ, "NO_COLOR": "1"}, check=False).returncode)
