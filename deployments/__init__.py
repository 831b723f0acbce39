"""Where and when flows run: serving, schedules, work pools."""
