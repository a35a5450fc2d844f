"""Does a run that is cut and resumed end where one that nothing disturbs ends? `resume.verify_resume` finds out."""
