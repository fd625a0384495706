/// The page's own text. xterm.js comes from Debian (`CTerminalPage`).
enum TerminalPageText {
    static let html: StaticString = """
        <!doctype html>
        <html lang="en">
        <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <title>Terminal</title>
        <link rel="icon" href="data:,">
        <link rel="stylesheet" href="xterm.css">
        <style>
        html, body { height: 100%; margin: 0; background: #000; color: #ccc; font: 14px sans-serif; }
        body { display: flex; flex-direction: column; }
        nav { display: flex; flex-wrap: wrap; gap: 2px; padding: 2px; background: #222; }
        nav button { background: #333; color: #ccc; border: 0; padding: 4px 10px; font: inherit; cursor: pointer; }
        nav button[aria-selected=true] { background: #000; color: #fff; }
        #status { margin-left: auto; padding: 4px 10px; }
        #screens { flex: 1; min-height: 0; }
        .screen { height: 100%; display: none; }
        .screen.shown { display: block; }
        </style>
        </head>
        <body>
        <nav><span id="tabs" role="tablist"></span><button id="new" title="New terminal">+</button>
        <button id="kill" title="Kill this terminal">&times;</button><span id="status" role="status"></span></nav>
        <div id="screens"></div>
        <script src="xterm.js"></script>
        <script src="terminal.js"></script>
        </body>
        </html>

        """

    static let script: StaticString = """
        'use strict';
        // One Session for each terminal of the sandbox: a tab, a screen and a WebSocket that is opened again when it breaks.
        const sessions = new Map();
        let current = null;
        const encoder = new TextEncoder();
        const byId = (id) => document.getElementById(id);

        class Session {
          constructor(id, isNew) {
            this.id = id;
            this.isNew = isNew;
            this.ended = false;
            this.pause = 500;
            this.screen = document.createElement('div');
            this.screen.className = 'screen';
            byId('screens').append(this.screen);
            this.tab = document.createElement('button');
            this.tab.setAttribute('role', 'tab');
            this.tab.textContent = id;
            this.tab.onclick = () => show(this);
            byId('tabs').append(this.tab);
            this.terminal = new Terminal({ cursorBlink: true, scrollback: 5000 });
            this.terminal.on('data', (text) => this.send(text));
            sessions.set(id, this);
            show(this);
            this.terminal.open(this.screen);
            this.terminal.focus();
            this.fit();
            this.connect();
          }

          connect() {
            const { cols, rows } = this.terminal;
            const id = encodeURIComponent(this.id);
            const target = this.isNew
              ? `process/pty/create-connect?id=${id}&cols=${cols}&rows=${rows}` : `process/pty/${id}/connect`;
            const address = new URL(target, document.baseURI);
            address.protocol = address.protocol.replace('http', 'ws');
            this.socket = new WebSocket(address);
            this.socket.binaryType = 'arraybuffer';
            const decoder = new TextDecoder();
            let opened = false;
            this.socket.onopen = () => {
              opened = true;
              this.isNew = false;
              this.pause = 500;
              this.terminal.reset();  // what is kept of the output is sent again
              this.resize();
              report();
            };
            this.socket.onmessage = ({ data }) => {
              if (typeof data !== 'string') this.terminal.write(decoder.decode(data, { stream: true }));
            };
            this.socket.onclose = (event) => this.closed(event, opened);
          }

          closed(event, opened) {
            let end = null;
            try { end = JSON.parse(event.reason); } catch (_) { /* it broke */ }
            if (end && ('exitCode' in end || 'error' in end)) return this.end(end.error || `exit code ${end.exitCode}`);
            if (!opened) this.check();
            setTimeout(() => { if (!this.ended) this.connect(); }, this.pause);
            this.pause = Math.min(this.pause * 2, 10000);
            report();
          }

          // A refused handshake has no reason in a browser: the list tells whether the terminal is still there.
          async check() {
            const listed = await list();
            if (listed && listed.some((each) => each.id === this.id)) this.isNew = false;
            if (listed && !this.isNew && !listed.some((each) => each.id === this.id)) this.end('it has ended');
          }

          send(text) {
            if (this.socket.readyState === WebSocket.OPEN) this.socket.send(encoder.encode(text));
          }

          end(reason) {
            this.ended = true;
            this.terminal.write(`\\r\\n[${reason}]\\r\\n`);
            this.tab.textContent = `${this.id} (ended)`;
            report();
          }

          // As many columns and rows as the screen holds.
          fit() {
            const cell = this.terminal._core.renderer && this.terminal._core.renderer.dimensions;
            if (!cell || !cell.actualCellWidth || !this.screen.clientWidth) return;
            const clamp = (count) => Math.max(2, Math.min(1000, Math.floor(count)));
            const cols = clamp((this.screen.clientWidth - 18) / cell.actualCellWidth);
            const rows = clamp(this.screen.clientHeight / cell.actualCellHeight);
            if (cols === this.terminal.cols && rows === this.terminal.rows) return;
            this.terminal.resize(cols, rows);
            this.resize();
          }

          resize() {
            if (this.ended || !this.socket || this.socket.readyState !== WebSocket.OPEN) return;
            const body = JSON.stringify({ cols: this.terminal.cols, rows: this.terminal.rows });
            fetch(`process/pty/${encodeURIComponent(this.id)}/resize`, { method: 'POST', body }).catch(() => {});
          }

          async kill() {
            if (!this.ended) await fetch(`process/pty/${encodeURIComponent(this.id)}`, { method: 'DELETE' }).catch(() => {});
            this.ended = true;
            this.socket.close();
            this.terminal.dispose();
            this.screen.remove();
            this.tab.remove();
            sessions.delete(this.id);
            const next = [...sessions.values()].pop();
            if (next) show(next); else { current = null; report(); }
          }
        }

        function show(session) {
          current = session;
          for (const each of sessions.values()) {
            each.screen.classList.toggle('shown', each === session);
            each.tab.setAttribute('aria-selected', String(each === session));
          }
          session.fit();
          session.terminal.focus();
          report();
        }

        function report() {
          const open = current && current.socket && current.socket.readyState === WebSocket.OPEN;
          byId('status').textContent = !current ? 'no terminal' : current.ended ? 'ended' : open ? 'connected' : 'connecting…';
        }

        async function list() {
          try {
            const answer = await fetch('process/pty');
            return answer.ok ? (await answer.json()).sessions : null;
          } catch (_) { return null; }
        }

        function create() {
          const random = crypto.getRandomValues(new Uint32Array(1))[0].toString(36);
          new Session(`web-${random}`, true);
        }

        byId('new').onclick = create;
        byId('kill').onclick = () => { if (current) current.kill(); };
        window.addEventListener('resize', () => { if (current) current.fit(); });
        list().then((known) => {
          for (const each of known || []) new Session(each.id, false);
          if (!sessions.size) create();
        });

        """
}
