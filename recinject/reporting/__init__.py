"""What people read: report.html, report.md, figures and cards."""
