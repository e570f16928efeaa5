"""Pictures and pages of finished runs."""

from vae.report.pictures import draw_figures, report

__all__ = ["draw_figures", "report"]
