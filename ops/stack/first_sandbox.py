"""Creates a sandbox with the official SDK, runs code in it, and deletes it."""

import time

from daytona import Daytona

began = time.monotonic()
daytona = Daytona()
sandbox = daytona.create()
created = time.monotonic()
try:
    answer = sandbox.process.code_run("print(sum(n * n for n in range(10)))")
    if answer.exit_code != 0 or answer.result.strip() != "285":
        raise SystemExit(f"the code ended with {answer.exit_code} and said: {answer.result!r}")
    ran = time.monotonic()
finally:
    daytona.delete(sandbox)
print(f"        sandbox {sandbox.id} was created in {created - began:.2f} s and answered 285 in {ran - created:.2f} s")
