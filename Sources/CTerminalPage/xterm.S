// xterm.js as Debian ships it is some fifty CommonJS modules. The assembler joins them into one script for browsers: each becomes
// a function in a table, behind a few lines that stand for `require`. The names are those that `public/Terminal` needs.

    .section .rodata
    .globl martlet_xterm_script_begin, martlet_xterm_script_end, martlet_xterm_style_begin, martlet_xterm_style_end

    .macro module name
    .ascii "\nmodules['\name']=function(exports,require,module){\n"
    .incbin "/usr/share/nodejs/xterm/lib/\name\().js"
    .ascii "\n};"
    .endm

martlet_xterm_script_begin:
#if __has_include("/usr/share/nodejs/xterm/lib/public/Terminal.js")
    .ascii "(function(){'use strict';var modules={},loaded={};"
    module AccessibilityManager
    module Buffer
    module BufferLine
    module BufferSet
    module CharWidth
    module CompositionHelper
    module EscapeSequenceParser
    module InputHandler
    module Linkifier
    module SelectionManager
    module SelectionModel
    module SoundManager
    module Strings
    module Terminal
    module Viewport
    module common/CircularList
    module common/EventEmitter
    module common/Lifecycle
    module common/data/EscapeSequences
    module core/data/Charsets
    module core/input/Keyboard
    module handlers/AltClickHandler
    module handlers/Clipboard
    module public/Terminal
    module renderer/BaseRenderLayer
    module renderer/CharacterJoinerRegistry
    module renderer/ColorManager
    module renderer/CursorRenderLayer
    module renderer/GridCache
    module renderer/LinkRenderLayer
    module renderer/Renderer
    module renderer/SelectionRenderLayer
    module renderer/TextRenderLayer
    module renderer/atlas/BaseCharAtlas
    module renderer/atlas/CharAtlasCache
    module renderer/atlas/CharAtlasUtils
    module renderer/atlas/DynamicCharAtlas
    module renderer/atlas/LRUMap
    module renderer/atlas/NoneCharAtlas
    module renderer/atlas/StaticCharAtlas
    module renderer/atlas/Types
    module renderer/dom/DomRenderer
    module renderer/dom/DomRendererRowFactory
    module shared/atlas/CharAtlasGenerator
    module shared/atlas/Types
    module shared/utils/Browser
    module ui/CharMeasure
    module ui/Lifecycle
    module ui/MouseZoneManager
    module ui/RenderDebouncer
    module ui/ScreenDprMonitor
    module utils/Clone
    module utils/MouseHelper
    .ascii "\nfunction resolve(from,name){var parts=from.split('/');parts.pop();name.split('/').forEach(function(part){"
    .ascii "if(part==='..')parts.pop();else if(part!=='.')parts.push(part);});return parts.join('/');}"
    .ascii "\nfunction load(name){var module=loaded[name];if(!module){module=loaded[name]={exports:{}};"
    .ascii "modules[name](module.exports,function(other){return load(resolve(name,other));},module);}return module.exports;}"
    .ascii "\nwindow.Terminal=load('public/Terminal').Terminal;})();\n"
#endif
martlet_xterm_script_end:

martlet_xterm_style_begin:
#if __has_include("/usr/share/javascript/xterm/xterm.css")
    .incbin "/usr/share/javascript/xterm/xterm.css"
#endif
martlet_xterm_style_end:

    .section .note.GNU-stack,"",@progbits
