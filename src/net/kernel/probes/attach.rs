//! Probes at places of files, seen by one process alone: one link of the kernel for all places of a program.
//!
//! aya knows neither these links nor programs for them; both are made here, from the same object and with its maps.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use aya::Btf;
use aya::Ebpf;
use aya::maps::Map;
use aya_obj::Object;
use aya_obj::ProgramSection;

use crate::net::kernel::KernelError;
use crate::net::kernel::because;
use crate::net::kernel::probes::target::Mapped;

// Of the kernel's `linux/bpf.h`.
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const TYPE_KPROBE: u32 = 2;
const TRACE_UPROBE_MULTI: u32 = 48;
const ON_RETURN: u32 = 1;

/// Bytes of what the kernel is asked with.
const ATTRIBUTES: usize = 128;

/// A place in a file, and what runs when it is passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    program: &'static str,
    path: PathBuf,
    offset: u64,
    is_return: bool,
}

impl Place {
    /// The function of this address in the file; its return, if so. `None`: it is not in the file.
    pub(super) fn new(
        program: &'static str,
        file: &Mapped,
        address: u64,
        is_return: bool,
    ) -> Option<Self> {
        Some(Self {
            program,
            path: file.path.clone(),
            offset: file.elf.offset_of(address)?,
            is_return,
        })
    }
}

/// The programs for places, loaded.
#[derive(Debug)]
pub(super) struct Programs(HashMap<String, OwnedFd>);

impl Programs {
    /// Loads those of the object, with the maps of its other programs.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub(super) fn load(object: &[u8], others: &Ebpf, types: &Btf) -> Result<Self, KernelError> {
        let other = |error: &(dyn std::error::Error + 'static)| because("load probes", error);
        let mut object = Object::parse(object).map_err(|error| other(&error))?;
        object.relocate_btf(types).map_err(|error| other(&error))?;
        let maps = object.maps.clone();
        let fds: Vec<(&str, RawFd, &aya_obj::Map)> = others
            .maps()
            .filter_map(|(name, map)| Some((name, descriptor(map)?, maps.get(name)?)))
            .collect();
        let sections = object.functions.keys().map(|(section, _)| *section);
        let sections = sections.collect();
        object
            .relocate_maps(fds.into_iter(), &sections)
            .map_err(|error| other(&error))?;
        object
            .relocate_calls(&sections)
            .map_err(|error| other(&error))?;
        let mut loaded = HashMap::new();
        for (name, program) in &object.programs {
            if !matches!(program.section, ProgramSection::UProbe { .. }) {
                continue;
            }
            let Some(function) = object.functions.get(&program.function_key()) else {
                continue;
            };
            let fd =
                load(&function.instructions, &program.license).map_err(|error| other(&error))?;
            loaded.insert(name.clone(), fd);
        }
        Ok(Self(loaded))
    }

    /// Attaches to these places in the process of this number. Dropping the links ends that.
    ///
    /// # Errors
    /// The kernel refuses one, or a file cannot be found; then none stays behind.
    pub(super) fn attach(&self, places: &[Place], pid: u32) -> io::Result<Vec<OwnedFd>> {
        let mut links: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for place in places {
            let key = (place.program, &place.path, place.is_return);
            links.entry(key).or_default().push(place.offset);
        }
        let link = |((name, path, is_return), offsets): ((&str, &PathBuf, bool), Vec<u64>)| {
            let program = self.0.get(name).ok_or(io::ErrorKind::NotFound)?;
            let path = CString::new(path.clone().into_os_string().into_vec())?;
            link(program, &path, &offsets, is_return, pid)
        };
        links.into_iter().map(link).collect()
    }
}

/// The descriptor of a map, of the kinds that there are.
fn descriptor(map: &Map) -> Option<RawFd> {
    let (Map::Array(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::RingBuf(data)
    | Map::SkStorage(data)
    | Map::Unsupported(data)) = map
    else {
        return None;
    };
    Some(data.fd().as_fd().as_raw_fd())
}

fn load(instructions: &[aya_obj::generated::bpf_insn], license: &CString) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes.put(0, TYPE_KPROBE);
    attributes.put(4, instructions.len() as u32);
    attributes.put_address(8, instructions.as_ptr().cast());
    attributes.put_address(16, license.as_ptr().cast());
    attributes.put(68, TRACE_UPROBE_MULTI);
    // SAFETY: the instructions and the zero-terminated text outlive the call, which only reads them.
    unsafe { attributes.ask(PROG_LOAD) }
}

fn link(
    program: &OwnedFd,
    path: &CString,
    offsets: &[u64],
    is_return: bool,
    pid: u32,
) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes.put(0, program.as_raw_fd() as u32);
    attributes.put(8, TRACE_UPROBE_MULTI);
    attributes.put_address(16, path.as_ptr().cast());
    attributes.put_address(24, offsets.as_ptr().cast());
    attributes.put(48, offsets.len() as u32);
    attributes.put(52, if is_return { ON_RETURN } else { 0 });
    attributes.put(56, pid);
    // SAFETY: the zero-terminated path and the offsets, as many as said, outlive the call, which only reads them.
    unsafe { attributes.ask(LINK_CREATE) }
}

/// What the kernel is asked with: `union bpf_attr`.
#[repr(C, align(8))]
struct Attributes([u8; ATTRIBUTES]);

impl Default for Attributes {
    fn default() -> Self {
        Self([0; ATTRIBUTES])
    }
}

impl Attributes {
    fn put(&mut self, at: usize, value: u32) {
        if let Some(place) = self.0.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
    }

    fn put_address(&mut self, at: usize, address: *const u8) {
        if let Some(place) = self.0.get_mut(at..at + 8) {
            place.copy_from_slice(&(address as u64).to_ne_bytes());
        }
    }

    /// # Safety
    /// What the attributes point at must be there, as long as they say, during the call.
    unsafe fn ask(&self, command: libc::c_long) -> io::Result<OwnedFd> {
        // SAFETY: as the caller promises; the attributes themselves have the size that is said.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), ATTRIBUTES) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both commands return a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }
}
