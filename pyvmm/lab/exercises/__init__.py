"""The exercises of the course, one file per exercise.  See docs/course/."""
