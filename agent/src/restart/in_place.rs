//! Strategies that replace the code of a server where it runs, so that there is never a second one beside it: a file each.

pub(crate) mod command;
pub(crate) mod gunicorn;
pub(crate) mod units;
pub(crate) mod uwsgi_fifo;
