//! Gives memory back that only the start or rare work has needed: an agent is idle for most of its life, beside a server
//! that can use every page.
//!
//! Nothing is lost by it: what the allocator holds free goes, and pages of the program's own file that nobody has
//! written to, which come back from the page cache when they are needed again.

use std::ffi::c_void;
use std::ops::Range;
use std::time::Duration;

use rustix::mm::Advice;

/// When the start is over, with a server that was found running or has been started.
const FIRST: Duration = Duration::from_secs(10);

/// After that: jobs, reloads and requests have left something, and nobody is in a hurry.
const AGAIN: Duration = Duration::from_secs(600);

/// Never ends.
pub(crate) async fn keep_small() {
    let mut pause = FIRST;
    loop {
        tokio::time::sleep(pause).await;
        give_back();
        pause = AGAIN;
    }
}

fn give_back() {
    trim_allocator();
    let Ok(text) = std::fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    let here: fn() = give_back;
    for pages in own_clean_pages(&text, here as usize) {
        forget(pages);
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a function of the C library without preconditions")]
fn trim_allocator() {
    // SAFETY: malloc_trim takes the allocator's own locks and only gives back what is free.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim_allocator() {}

#[expect(unsafe_code, reason = "the kernel is told of addresses")]
fn forget(pages: Range<usize>) {
    let start = std::ptr::with_exposed_provenance_mut::<c_void>(pages.start);
    // SAFETY: a private mapping of a file that cannot be written to and has no page of its own: each page is read from
    // the file again, with the same content, when it is next touched. Where that fails, nothing has changed.
    let _ = unsafe { rustix::mm::madvise(start, pages.len(), Advice::LinuxDontNeed) };
}

/// A mapping as /proc/PID/smaps tells of it (Linux manual page proc_pid_smaps).
#[derive(Default)]
struct Mapping<'a> {
    addresses: Range<usize>,
    permissions: &'a str,
    /// Device and inode.
    file: (&'a str, &'a str),
    /// Pages that are not the file's any more, in KiB: written to, as by the dynamic linker. `None`: not told.
    own_kib: Option<u64>,
}

impl Mapping<'_> {
    fn can_be_read_again(&self) -> bool {
        matches!(self.permissions, "r--p" | "r-xp") && self.own_kib == Some(0)
    }
}

/// The mappings of the file whose code is at the address `code`, as far as they hold only what the file holds.
fn own_clean_pages(smaps: &str, code: usize) -> Vec<Range<usize>> {
    let mappings = read(smaps);
    let Some(file) = mappings
        .iter()
        .find(|mapping| mapping.addresses.contains(&code))
        .map(|mapping| mapping.file)
    else {
        return Vec::new();
    };
    mappings
        .iter()
        .filter(|mapping| mapping.file == file && mapping.file.1 != "0" && mapping.can_be_read_again())
        .map(|mapping| mapping.addresses.clone())
        .collect()
}

fn read(smaps: &str) -> Vec<Mapping<'_>> {
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = heading(line) {
            mappings.push(mapping);
        } else if let (Some(kib), Some(mapping)) = (line.strip_prefix("Anonymous:"), mappings.last_mut()) {
            mapping.own_kib = kib.trim().strip_suffix(" kB").and_then(|kib| kib.parse().ok());
        }
    }
    mappings
}

/// `55d0c8aa1000-55d0c91c8000 r-xp 00257000 fe:00 10011438    /usr/bin/tamada`
fn heading(line: &str) -> Option<Mapping<'_>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (addresses, permissions) = (address(start)?..address(end)?, words.next()?);
    let _offset = words.next()?;
    Some(Mapping {
        addresses,
        permissions,
        file: (words.next()?, words.next()?),
        own_kib: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55f7c7f17000-55f7c816f000 r--p 00000000 fe:00 77                   /usr/bin/tamada
Rss:                1152 kB
Anonymous:             0 kB
55f7c816f000-55f7c8820000 r-xp 00257000 fe:00 77                   /usr/bin/tamada
Rss:                6052 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
55f7c8820000-55f7c8860000 r--p 00907000 fe:00 77                   /usr/bin/tamada
Rss:                 256 kB
Anonymous:           256 kB
55f7c8860000-55f7c8866000 rw-p 00946000 fe:00 77                   /usr/bin/tamada
Anonymous:             0 kB
55f7fd0f8000-55f7fd21c000 rw-p 00000000 00:00 0                          [heap]
Anonymous:          1008 kB
7f24fb000000-7f24fb100000 r-xp 00000000 fe:00 78                   /lib/x86_64-linux-gnu/libc.so.6
Anonymous:             0 kB
";

    #[test]
    fn only_what_the_file_still_holds_is_given_back() {
        assert_eq!(
            own_clean_pages(SMAPS, 0x55f7_c820_0000),
            [
                0x55f7_c7f1_7000..0x55f7_c816_f000,
                0x55f7_c816_f000..0x55f7_c882_0000
            ]
        );
        let written_to = SMAPS.replacen(
            "6052 kB\nAnonymous:             0",
            "6052 kB\nAnonymous:             4",
            1,
        );
        assert_eq!(own_clean_pages(&written_to, 0x55f7_c820_0000).len(), 1);
        // A kernel that does not tell, and an address that is nobody's.
        assert!(own_clean_pages(&SMAPS.replace("Anonymous", "Else"), 0x55f7_c820_0000).is_empty());
        assert!(own_clean_pages(SMAPS, 0x1000).is_empty());
        // No file.
        assert!(own_clean_pages(SMAPS, 0x55f7_fd0f_8000).is_empty());
    }

    #[test]
    fn a_program_goes_on_after_it_has_given_its_pages_back() {
        let code = || {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let here: fn() = give_back;
            own_clean_pages(&smaps, here as usize)
        };
        let before = code();
        assert!(!before.is_empty(), "there is code that can be read again");
        give_back();
        let text: Vec<String> = (0..3).map(|number| format!("{number}")).collect();
        assert_eq!(text.concat(), "012");
        assert_eq!(code(), before, "the mappings are as they were");
    }
}
