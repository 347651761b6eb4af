//! What Redis was asked, and how it answered. Written by the control core only.

use super::cells::{Counter, Label};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RedisCall {
    Write,
    Read,
    Ping,
}

impl Label for RedisCall {
    const ALL: &'static [Self] = &[Self::Write, Self::Read, Self::Ping];

    fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Ping => "ping",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Successes and errors of each call.
#[derive(Debug, Default)]
pub struct RedisCells([[Counter; 2]; RedisCall::ALL.len()]);

impl RedisCells {
    pub fn called(&self, call: RedisCall, succeeded: bool) {
        self.0[call.index()][usize::from(!succeeded)].inc();
    }

    pub fn calls(&self, call: RedisCall, succeeded: bool) -> u64 {
        self.0[call.index()][usize::from(!succeeded)].value()
    }
}
