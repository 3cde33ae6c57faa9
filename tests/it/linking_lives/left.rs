//! What a process holds: descriptors, and the entries of its maps in the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use aya::Pod;
use aya::maps::HashMap;
use aya::maps::Map;
use aya::maps::MapData;
use rustix::process::Pid;

/// What is left.
#[derive(Debug, Clone)]
pub(super) struct Left {
    /// Of programs, maps, links and processes: all that is no file and no socket.
    pub(super) descriptors: usize,
    /// By the map's name.
    pub(super) entries: BTreeMap<String, usize>,
}

impl Left {
    /// Counts what a process holds now.
    pub(super) fn of(process: Pid) -> Self {
        let process = process.as_raw_nonzero();
        let fds = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        let targets = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        let is_counted = |target: &PathBuf| target.to_string_lossy().starts_with("anon_inode:");
        let infos = fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap();
        let infos = infos.filter_map(|info| fs::read_to_string(info.unwrap().path()).ok());
        Self {
            descriptors: targets.filter(is_counted).count(),
            entries: infos.filter_map(|info| entries(&info)).collect(),
        }
    }
}

/// The name of a map whose keys are listed, and how many there are.
fn entries(info: &str) -> Option<(String, usize)> {
    let line = info.lines().find_map(|line| line.strip_prefix("map_id:"))?;
    let data = MapData::from_id(line.trim().parse().ok()?).ok()?;
    let info = data.info().ok()?;
    let name = info.name_as_str()?.to_owned();
    let count = match name.as_str() {
        "runtimes" => keys::<u32, [u64; 7]>(Map::HashMap(data)),
        "processes" => keys::<u32, [u64; 7]>(Map::LruHashMap(data)),
        "strands" => keys::<[u64; 2], [u64; 7]>(Map::LruHashMap(data)),
        "idle" => keys::<[u32; 3], i32>(Map::LruHashMap(data)),
        _ => return None,
    };
    Some((name, count))
}

fn keys<K: Pod, V: Pod>(map: Map) -> usize {
    let map: HashMap<MapData, K, V> = map.try_into().unwrap();
    map.keys().count()
}
