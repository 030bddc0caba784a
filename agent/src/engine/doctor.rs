//! `doctor`: looks at what a release needs, and says what is wrong with its cure.
