#include "CTerminalPage.h"

extern const char martlet_xterm_script_begin[], martlet_xterm_script_end[];
extern const char martlet_xterm_style_begin[], martlet_xterm_style_end[];

const void *martlet_xterm_script(size_t *length) {
    *length = (size_t)(martlet_xterm_script_end - martlet_xterm_script_begin);
    return martlet_xterm_script_begin;
}

const void *martlet_xterm_style(size_t *length) {
    *length = (size_t)(martlet_xterm_style_end - martlet_xterm_style_begin);
    return martlet_xterm_style_begin;
}
