"""What everything stands on: settings, persistence, random numbers, devices, files."""
