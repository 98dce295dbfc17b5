"""Records as tables, sentences, charts and pages. Nothing is shown that a record does not hold."""

from truenorm.lab.report.claims.page import claims_page
from truenorm.lab.report.comparison import Comparison, comparison_page
from truenorm.lab.report.diagnosis import diagnosis_page
from truenorm.lab.report.shown import shown
from truenorm.lab.report.study import study_page

__all__ = ["Comparison", "claims_page", "comparison_page", "diagnosis_page", "shown", "study_page"]
