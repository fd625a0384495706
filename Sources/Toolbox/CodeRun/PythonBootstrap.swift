/// Runs the code on descriptor 9 as Python's main module, and writes a line of JSON to descriptor 8 for each chart that
/// matplotlib would show. Compared with a file or standard input: the working directory is importable, tracebacks show source
/// lines and none of ours, `input()` meets the end of an empty input, and nothing is left on disk.
let pythonBootstrap = #"""
    import sys

    def martlet_boot():
        import linecache, os
        with os.fdopen(9, encoding="utf-8") as file:
            code = file.read()
        os.set_inheritable(8, False)
        name = "<stdin>"
        sys.argv[0] = "-"
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)

        def show_exception(kind, value, trace):
            import traceback
            while trace is not None and trace.tb_frame.f_code.co_filename != name:
                trace = trace.tb_next
            traceback.print_exception(kind, value, trace)

        class PyplotFinder:
            """Patches matplotlib.pyplot when, and only when, it is imported."""
            def find_spec(self, fullname, path, target=None):
                if fullname != "matplotlib.pyplot":
                    return None
                sys.meta_path.remove(self)
                import importlib.util
                spec = importlib.util.find_spec(fullname)
                if spec is None or spec.loader is None:
                    return spec
                run = spec.loader.exec_module
                def exec_module(module):
                    run(module)
                    martlet_charts(module)
                spec.loader.exec_module = exec_module
                return spec

        os.environ.setdefault("MPLBACKEND", "Agg")
        sys.meta_path.insert(0, PyplotFinder())
        sys.excepthook = show_exception
        main = sys.modules["__main__"].__dict__
        martlet_charts = main.pop("martlet_charts")
        del main["martlet_boot"]
        exec(compile(code, name, "exec", dont_inherit=True), main)

    def martlet_charts(plt):
        import base64, io, json, math, os
        from matplotlib.axes import Axes
        from matplotlib.collections import PathCollection
        from matplotlib.container import BarContainer
        from matplotlib.figure import Figure
        from matplotlib.patches import Wedge

        draw_boxes = Axes.bxp
        def bxp(self, stats, *args, **kwargs):
            stats = list(stats)
            self.__dict__.setdefault("_martlet_boxes", []).extend(stats)
            return draw_boxes(self, stats, *args, **kwargs)
        Axes.bxp = bxp

        def label(artist):
            text = str(artist.get_label())
            return "" if text.startswith("_") else text

        def numbers(values):
            return [float(value) for value in values if math.isfinite(float(value))]

        def points(pairs):
            pairs = [[float(x), float(y)] for x, y in pairs]
            return [pair for pair in pairs if math.isfinite(pair[0]) and math.isfinite(pair[1])]

        def box(stats, number):
            return {"label": str(stats.get("label", number)), "min": float(stats["whislo"]),
                    "first_quartile": float(stats["q1"]), "median": float(stats["med"]),
                    "third_quartile": float(stats["q3"]), "max": float(stats["whishi"]),
                    "outliers": numbers(stats.get("fliers", []))}

        def bars(axes, container):
            horizontal = getattr(container, "orientation", None) == "horizontal"
            axis = axes.yaxis if horizontal else axes.xaxis
            names = {round(float(at), 6): text.get_text()
                     for at, text in zip(axis.get_ticklocs(), axis.get_ticklabels())}
            for bar in container:
                low, size = (bar.get_y(), bar.get_height()) if horizontal else (bar.get_x(), bar.get_width())
                value = bar.get_width() if horizontal else bar.get_height()
                centre = float(low + size / 2)
                yield {"label": names.get(round(centre, 6)) or f"{centre:g}", "value": f"{value:g}",
                       "group": label(container)}

        def content(axes):
            boxes = axes.__dict__.get("_martlet_boxes")
            wedges = [patch for patch in axes.patches if isinstance(patch, Wedge)]
            groups = [group for group in axes.containers if isinstance(group, BarContainer)]
            clouds = [cloud for cloud in axes.collections if isinstance(cloud, PathCollection)]
            if boxes:
                return "box_and_whisker", [box(stats, number) for number, stats in enumerate(boxes, 1)]
            if wedges:
                return "pie", [{"label": label(wedge), "angle": float(wedge.theta2 - wedge.theta1),
                                "radius": float(wedge.r)} for wedge in wedges]
            if groups:
                return "bar", [bar for group in groups for bar in bars(axes, group)]
            if clouds and not axes.lines:
                return "scatter", [{"label": label(cloud), "points": points(cloud.get_offsets())} for cloud in clouds]
            if axes.lines:
                return "line", [{"label": label(line), "points": points(line.get_xydata())} for line in axes.lines]
            return "unknown", []

        def describe(axes):
            kind, elements = content(axes)
            chart = {"type": kind, "title": axes.get_title(), "elements": elements}
            if kind != "pie":
                chart["x_label"], chart["y_label"] = axes.get_xlabel(), axes.get_ylabel()
            if kind in ("line", "scatter"):
                for side, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
                    chart[side + "_ticks"] = numbers(axis.get_ticklocs())
                    chart[side + "_tick_labels"] = [text.get_text() for text in axis.get_ticklabels()]
                    chart[side + "_scale"] = axis.get_scale()
            return chart

        def picture(figure, **area):
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", **area)
            return base64.b64encode(buffer.getvalue()).decode("ascii")

        def nested(figure, axes):
            chart = describe(axes)
            area = axes.get_tightbbox(figure.canvas.get_renderer())
            area = area.transformed(figure.dpi_scale_trans.inverted()) if area is not None else None
            return {"type": chart["type"], "title": chart["title"], "png": picture(figure, bbox_inches=area),
                    "x_label": chart.get("x_label", ""), "y_label": chart.get("y_label", "")}

        def emit(figure):
            png = picture(figure)
            heading = getattr(figure, "_suptitle", None)
            title = heading.get_text() if heading is not None else ""
            try:
                shown = [axes for axes in figure.axes if axes.get_visible()]
                if len(shown) == 1:
                    chart = describe(shown[0])
                    chart["title"] = chart["title"] or title
                elif shown:
                    chart = {"type": "composite_chart", "title": title,
                             "elements": [nested(figure, axes) for axes in shown]}
                else:
                    chart = {"type": "unknown", "title": title, "elements": []}
                chart["png"] = png
                line = json.dumps(chart, allow_nan=False)
            except Exception:
                line = json.dumps({"type": "unknown", "title": title, "elements": [], "png": png})
            rest = line.encode("utf-8") + b"\n"
            while rest:
                rest = rest[os.write(8, rest):]

        def show(*args, **kwargs):
            for number in plt.get_fignums():
                emit(plt.figure(number))
            plt.close("all")

        plt.show = show
        Figure.show = lambda self, *args, **kwargs: emit(self)

    martlet_boot()
    """#
