#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
use std::io::Read;

use super::*;

fn pipe() -> (File, File) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    (File::from(read), File::from(write))
}

fn port(console: &Console) -> SerialPort {
    SerialPort::new(EventFd::new(0).unwrap(), console)
}

#[test]
fn what_the_guest_prints_arrives_whole() {
    let (mut read, write) = pipe();
    let mut console = Console::start(Some(write), None).unwrap();
    let port = port(&console);
    b"hello\n".iter().for_each(|byte| port.write(0, *byte));
    console.finish();
    drop((console, port));
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\n");
}

#[test]
fn a_reader_that_sleeps_stops_neither_the_guest_nor_its_end() {
    let (read, write) = pipe();
    let mut console = Console::start(Some(write), None).unwrap();
    let port = port(&console);
    (0..400_000).for_each(|_| port.write(0, b'x'));
    assert!(console.shared.lock().bytes.len() <= BUFFER_MAX);
    console.finish();
    assert!(console.shared.lock().dropped > 0);
    drop(read);
}

#[test]
fn output_ends_at_the_limit() {
    let (mut read, write) = pipe();
    let mut console = Console::start(Some(write), Some(10)).unwrap();
    let port = port(&console);
    (0..100).for_each(|_| port.write(0, b'x'));
    console.finish();
    drop((console, port));
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "xxxxxxxxxx");
}

#[test]
fn input_is_taken_up_to_the_ports_buffer() {
    let console = Console::start(None, None).unwrap();
    let port = port(&console);
    assert_eq!(port.room(), 64);
    assert_eq!(port.input(&[b'y'; 64]), 64);
    assert_eq!(port.room(), 0);
    assert_eq!(port.read(0), b'y');
}
