//! Strategies that replace the code of a running server, so that there is never a second one beside it. One file each.

pub(crate) mod command;
pub(crate) mod gunicorn;
pub(crate) mod units;
pub(crate) mod uwsgi_fifo;
