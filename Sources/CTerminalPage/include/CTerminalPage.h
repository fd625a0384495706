#ifndef MARTLET_TERMINAL_PAGE_H
#define MARTLET_TERMINAL_PAGE_H

#include <stddef.h>

/// xterm.js as one script that sets `window.Terminal`; empty if the machine that built this had no package node-xterm.
/// Lives as long as the program.
const void *martlet_xterm_script(size_t *length);

/// xterm.js's style sheet, likewise of package libjs-xterm.
const void *martlet_xterm_style(size_t *length);

#endif
