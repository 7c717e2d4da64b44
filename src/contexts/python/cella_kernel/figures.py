"""matplotlib: every open figure is shown once, by plt.show(), as the result, or at the end of the execution."""
import io
import sys


class Figures:
    def __init__(self, formatter, publish):
        self._publish = publish  # (data, metadata): to the client, now
        self._shown = []  # figures that went out in this execution but are still open
        self.svg = False
        self._attached = False
        formatter.formatters["image/png"].for_type_by_name("matplotlib.figure", "Figure", self._as_png)
        formatter.formatters["image/svg+xml"].for_type_by_name("matplotlib.figure", "Figure", self._as_svg)

    def begin(self, svg):
        """Before each execution. Makes plt.show() and figure.show() of non-GUI backends show the figure here."""
        self.svg = svg
        if self._attached or "matplotlib.backend_bases" not in sys.modules:
            return

        def show(manager):
            self._show(manager.canvas.figure, manager.num)

        sys.modules["matplotlib.backend_bases"].FigureManagerBase.show = show
        self._attached = True

    def _render(self, figure, kind):
        out = io.BytesIO()
        figure.savefig(out, format=kind, bbox_inches="tight", facecolor=figure.get_facecolor(), dpi=figure.dpi)
        return out.getvalue()

    def _as_png(self, figure):
        self._shown.append(figure)
        return self._render(figure, "png")

    def _as_svg(self, figure):
        return self._render(figure, "svg").decode() if self.svg else None

    def _close(self, number):
        sys.modules["matplotlib._pylab_helpers"].Gcf.destroy(number)

    def _show(self, figure, number):
        if not any(figure is shown for shown in self._shown):
            # Not through the formatters: they would report a figure that cannot be drawn and go on.
            data = {"text/plain": repr(figure), "image/png": self._render(figure, "png")}
            if self.svg:
                data["image/svg+xml"] = self._as_svg(figure)
            self._publish(data, None)
        self._close(number)

    def forget(self):
        """Close everything without showing it."""
        if self.any_open():
            sys.modules["matplotlib._pylab_helpers"].Gcf.destroy_all()
        self._shown.clear()

    def any_open(self):
        helpers = sys.modules.get("matplotlib._pylab_helpers")
        return bool(helpers and helpers.Gcf.figs)

    def finish(self):
        """Show and close what is open. Runs code of the user's; an error of one figure does not hide the others."""
        failed = None
        try:
            for manager in sys.modules["matplotlib._pylab_helpers"].Gcf.get_all_fig_managers():
                try:
                    self._show(manager.canvas.figure, manager.num)
                except Exception as e:
                    failed = failed or e
                    self._close(manager.num)
        finally:
            self._shown.clear()
        if failed:
            raise failed
