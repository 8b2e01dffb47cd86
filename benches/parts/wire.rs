//! A client's connection that never blocks, watched by an epoll: what is read and not taken yet, what is to be written.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use socket2::Socket;

pub(crate) struct Wire {
    stream: Socket,
    /// What the epoll calls it.
    index: usize,
    input: Vec<u8>,
    /// Bytes of `input` that are data.
    filled: usize,
    output: Vec<u8>,
    /// Bytes of `output` already sent.
    sent: usize,
    /// Epoll was asked for writability: the kernel did not take all of `output`.
    waits_to_write: bool,
}

impl Wire {
    /// Connects, and has the epoll tell of it by this index.
    pub(crate) fn open(address: SocketAddr, epoll: &OwnedFd, index: usize) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Self::over(stream.into(), epoll, index)
    }

    /// Takes a connection, over TCP or a Unix socket.
    pub(crate) fn over(stream: Socket, epoll: &OwnedFd, index: usize) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        epoll::add(epoll, &stream, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
        Ok(Self {
            stream,
            index,
            input: vec![0; 64 * 1024],
            filled: 0,
            output: Vec::new(),
            sent: 0,
            waits_to_write: false,
        })
    }

    /// Puts bytes behind what is to be written.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Writes once; what the kernel does not take waits for the epoll to tell of room.
    pub(crate) fn flush(&mut self, epoll: &OwnedFd) -> io::Result<()> {
        match self.stream.write(&self.output[self.sent..]) {
            Ok(n) => self.sent += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let all = self.sent == self.output.len();
        if all {
            self.output.clear();
            self.sent = 0;
        }
        if all == self.waits_to_write {
            self.waits_to_write = !all;
            let flags = if all { epoll::EventFlags::IN } else { epoll::EventFlags::IN | epoll::EventFlags::OUT };
            epoll::modify(epoll, &self.stream, epoll::EventData::new_u64(self.index as u64), flags)?;
        }
        Ok(())
    }

    /// Reads once; epoll is level-triggered, so whatever is left wakes us again.
    pub(crate) fn fill(&mut self) -> io::Result<()> {
        if self.filled == self.input.len() {
            self.input.resize(self.filled * 2, 0);
        }
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.filled += n;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What was read and not taken.
    pub(crate) fn input(&self) -> &[u8] {
        &self.input[..self.filled]
    }

    /// Takes so many bytes off the head of the input.
    pub(crate) fn take(&mut self, len: usize) {
        self.input.copy_within(len..self.filled, 0);
        self.filled -= len;
    }

    /// The epoll tells of it no more.
    pub(crate) fn leave(&self, epoll: &OwnedFd) -> io::Result<()> {
        Ok(epoll::delete(epoll, &self.stream)?)
    }
}

pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().cast_signed(), tv_nsec: duration.subsec_nanos().into() }
}
