"""The lab: trains, measures and reports with the library, which never imports it. Needs the extra `lab`."""
