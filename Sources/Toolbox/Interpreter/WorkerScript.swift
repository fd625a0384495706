/// Python's `-c` argument: runs the script that follows it under a name of its own, so that `__main__` stays the user's.
let workerStub = #"""
    import sys
    sys.version_info >= (3, 8) or sys.exit("Python 3.8 or later is needed, this is " + sys.version.split()[0])
    exec(compile(sys.argv.pop(1), "<martlet>", "exec"), {"__name__": "martlet"})
    """#

/// What a context's Python process runs (see README.md): takes commands, a line of JSON each, from what it got as standard
/// input, and reports on descriptor 8. Python 3.8 or later.
let workerScript = #"""
    import sys
    # Not from the working directory: a file of the user's may be called json.py.
    if sys.path[:1] == [""]:
        del sys.path[0]
        own_directory = True
    else:
        own_directory = False
    import __future__, ast, builtins, collections, faulthandler, io, json, linecache, os, select, signal, traceback
    if own_directory:
        sys.path.insert(0, "")

    OURS = "<martlet>"
    CELL = "<cell "
    SOURCES = 1000                  # cells whose lines are kept for tracebacks
    NAME, VALUE, TRACE = 200, 16 << 10, 48 << 10    # most characters of an error's parts
    ASYNC_CODE = 0x80               # inspect.CO_COROUTINE; importing inspect takes longer than all the rest
    AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    FUTURES = 0
    for feature in __future__.all_feature_names:
        FUTURES |= getattr(__future__, feature).compiler_flag

    class Prompt(io.BufferedWriter):
        """Writes at once, and all of it even when a signal comes in between, which `python -u` does not promise."""
        def write(self, data):
            count = super().write(data)
            self.flush()
            return count

    def text_stream(descriptor, name, errors):
        raw = io.FileIO(descriptor, "w", closefd=False)
        raw.name = name
        return io.TextIOWrapper(Prompt(raw), encoding="utf-8", errors=errors, line_buffering=True)

    def write_all(descriptor, data):
        while data:
            try:
                data = data[os.write(descriptor, data):]
            except BlockingIOError:     # a program that shares the pipe made it so
                poll = select.poll()
                poll.register(descriptor, select.POLLOUT)
                poll.poll()

    def ignore(number, frame):
        """A SIGINT that comes when nothing runs. Not SIG_IGN, which programs started meanwhile would inherit."""

    def shortened(text, limit):
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
        if len(text) <= limit:
            return text
        half = limit // 2
        return "%s\n[martlet: %d characters left out]\n%s" % (text[:half], len(text) - 2 * half, text[-half:])

    def user_frames(frames):
        """From the first frame of the user's code, without those of ours."""
        frames = list(frames)
        first = next((at for at, frame in enumerate(frames) if frame.filename.startswith(CELL)), 0)
        return traceback.StackSummary.from_list([each for each in frames[first:] if each.filename != OURS])

    def trace_of(error):
        shown = traceback.TracebackException(type(error), error, error.__traceback__)
        seen, waiting = set(), [shown]
        while waiting:
            each = waiting.pop()
            if each is None or id(each) in seen:
                continue
            seen.add(id(each))
            each.stack = user_frames(each.stack)
            waiting += [each.__cause__, each.__context__, *(getattr(each, "exceptions", None) or [])]
        return "".join(shown.format() if shown.stack else shown.format_exception_only())

    def described(make, error):
        """What `make` says of an error, whatever the error's own methods do."""
        try:
            return make(error)
        except BaseException as trouble:
            return "<%s cannot be shown: %s>" % (type(error).__name__, type(trouble).__name__)

    def failure_of(error):
        if isinstance(error, SystemExit) and error.code in (None, 0):
            return None
        return {"name": shortened(type(error).__name__, NAME), "value": shortened(described(str, error), VALUE),
                "traceback": shortened(described(trace_of, error), TRACE)}

    class Worker:
        def __init__(self):
            self.process = os.getpid()
            self.commands = os.fdopen(os.dup(0), "rb")
            self.reports = os.dup(8)
            os.close(8)
            self.ends = os.dup(1), os.dup(2)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
            self.main = sys.modules["__main__"].__dict__
            del self.main["sys"]
            self.on_interrupt = signal.default_int_handler
            self.flags = 0
            self.cells = 0
            self.sources = collections.deque()
            self.loop = None
            signal.signal(signal.SIGINT, ignore)
            faulthandler.enable(file=self.ends[1])
            os.environ.setdefault("MPLBACKEND", "Agg")
            sys.argv = [""]
            self.explain_input()

        def explain_input(self):
            ask = builtins.input
            def input(prompt="", /):
                """Read a line from sys.stdin, which is at its end unless replaced."""
                try:
                    return ask(prompt)
                except EOFError:
                    raise EOFError("code in an interpreter has no standard input: input() cannot be answered") from None
            builtins.input = input

        def report(self, **fields):
            write_all(self.reports, json.dumps(fields).encode("ascii") + b"\n")

        def serve(self):
            self.report(ready=True)
            for line in self.commands:
                command = json.loads(line)
                for name, value in command["variables"].items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value
                self.renew_streams()
                error = self.execute(command)
                failure = failure_of(error) if error is not None else None
                self.flush()
                if os.getpid() != self.process:
                    self.leave_fork(error, failure)
                for end in self.ends:
                    write_all(end, b"\xff" + command["end"].encode("ascii") + b"\xff")
                self.report(done=command["number"], error=failure, interrupted=isinstance(error, KeyboardInterrupt))
                error = None    # it holds the user's variables

        def execute(self, command):
            """Answers the exception that ended the code, or None. One SIGINT may come at any place of it."""
            envs = command["envs"]
            before = {name: os.environ.get(name) for name in envs}
            try:
                try:
                    os.environ.update(envs)
                    signal.signal(signal.SIGINT, self.on_interrupt)
                    self.report(started=command["number"])
                    self.evaluate(command["code"])
                finally:
                    # What the user's code put there is kept for its next run.
                    self.on_interrupt = signal.signal(signal.SIGINT, ignore) or signal.default_int_handler
                return None
            except BaseException as error:
                signal.signal(signal.SIGINT, ignore)
                return error
            finally:
                for name, value in before.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value

        def evaluate(self, source):
            self.cells += 1
            name = "%s%d>" % (CELL, self.cells)
            linecache.cache[name] = (len(source), None, source.splitlines(True), name)
            self.sources.append(name)
            if len(self.sources) > SOURCES:
                linecache.cache.pop(self.sources.popleft(), None)
            code = compile(source, name, "exec", self.flags | AWAIT, dont_inherit=True)
            self.flags |= code.co_flags & FUTURES
            if code.co_flags & ASYNC_CODE:
                self.complete(eval(code, self.main))
            else:
                exec(code, self.main)

        def complete(self, coroutine):
            """Top-level await: one event loop for all runs, which turns while one of them awaits."""
            import asyncio
            if self.loop is None or self.loop.is_closed():
                self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
            task = self.loop.create_task(coroutine)
            try:
                self.loop.run_until_complete(task)
            except BaseException:
                if not task.done():
                    task.cancel()
                    self.loop.run_until_complete(asyncio.wait([task]))
                    task.cancelled() or task.exception()
                raise

        def renew_streams(self):
            """Standard streams that the user's code closed, as exit() does, work again."""
            def lost(stream):
                return stream is None or getattr(stream, "closed", False)
            if lost(sys.stdin):
                sys.stdin = open(0, closefd=False)
            if lost(sys.stdout):
                sys.stdout = text_stream(1, "<stdout>", "strict")
            if lost(sys.stderr):
                sys.stderr = text_stream(2, "<stderr>", "backslashreplace")

        def flush(self):
            for stream in sys.stdout, sys.stderr:
                try:
                    stream.flush()
                except BaseException:
                    pass    # closed or replaced by the user's code

        def leave_fork(self, error, failure):
            """A child that came back from os.fork() in the user's code ends where the code ends."""
            if failure is not None and not isinstance(error, SystemExit):
                write_all(2, failure["traceback"].encode("utf-8"))
            status = error.code if isinstance(error, SystemExit) else 1
            os._exit(0 if failure is None else status if isinstance(status, int) else 1)

    sys.stdout = sys.__stdout__ = text_stream(1, "<stdout>", "strict")
    sys.stderr = sys.__stderr__ = text_stream(2, "<stderr>", "backslashreplace")
    Worker().serve()
    """#
