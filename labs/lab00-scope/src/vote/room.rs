//! The address for the room: found, written out, and as a QR code of half blocks.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use qrcode::{Color, EcLevel, QrCode};

/// The modules of light around a code, as ISO/IEC 18004 demands.
const QUIET: usize = 4;

/// How the class gets there.
pub struct Room {
    /// The likeliest address first.
    pub urls: Vec<String>,
    /// The code of the first one.
    pub code: Option<Code>,
}

impl Room {
    /// For a server that listens there; a code only for a terminal, which can show it.
    pub fn new(listen: SocketAddr, terminal: bool) -> Room {
        let urls = addresses(listen);
        let code = urls.first().filter(|_| terminal).and_then(|url| code(url));
        Room { urls, code }
    }
}

/// Where the page can be reached if the server listens there: the likeliest address first.
fn addresses(listen: SocketAddr) -> Vec<String> {
    let addresses = if listen.ip().is_unspecified() { own_addresses() } else { vec![listen.ip()] };
    addresses.into_iter().map(|ip| url(ip, listen.port())).collect()
}

fn url(ip: IpAddr, port: u16) -> String {
    let url = format!("http://{}", SocketAddr::new(ip, port));
    if port == 80 { url.trim_end_matches(":80").into() } else { url }
}

/// The IPv4 addresses of this machine that others can reach; first that of the interface with the default route.
fn own_addresses() -> Vec<IpAddr> {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let default = routes.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let default = default.filter(|fields| fields.get(1) == Some(&"00000000")).map(|fields| fields[0].to_string());
    let default: Vec<String> = default.collect();
    let mut found: Vec<(bool, Ipv4Addr)> = Vec::new();
    for interface in getifaddrs().into_iter().flatten() {
        let up =
            interface.flags.contains(InterfaceFlags::IFF_UP) && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let address = interface.address.as_ref().and_then(|address| address.as_sockaddr_in().map(|addr| addr.ip()));
        if let (true, Some(address)) = (up, address) {
            found.push((!default.contains(&interface.interface_name), address));
        }
    }
    found.sort();
    found.into_iter().map(|(_, address)| address.into()).collect()
}

/// The code of an address, a line for two rows of modules; each line is `width` columns wide.
pub struct Code {
    pub lines: Vec<String>,
    pub width: usize,
}

/// The smallest code of this address with the best repair that fits into it. In capitals: there a scheme and a host mean
/// the same, and a code needs fewer modules.
fn code(url: &str) -> Option<Code> {
    let text = url.to_ascii_uppercase();
    let levels = [EcLevel::H, EcLevel::Q, EcLevel::M, EcLevel::L];
    let codes: Vec<QrCode> =
        levels.iter().filter_map(|level| QrCode::with_error_correction_level(&text, *level).ok()).collect();
    let code = codes.iter().min_by_key(|code| code.width())?; // the first of the smallest
    let (modules, width) = (code.width(), code.width() + 2 * QUIET);
    let light = |row: usize, column: usize| {
        let inside = (QUIET..QUIET + modules).contains(&row) && (QUIET..QUIET + modules).contains(&column);
        !inside || code[(column - QUIET, row - QUIET)] == Color::Light
    };
    let half = |row: usize, column: usize| match (light(row, column), light(row + 1, column)) {
        (true, true) => '\u{2588}',
        (true, false) => '\u{2580}',
        (false, true) => '\u{2584}',
        (false, false) => ' ',
    };
    // White on black, whatever the terminal's own colours are: a camera needs dark modules on a light ground.
    let line = |row: usize| {
        let blocks: String = (0..width).map(|column| half(row, column)).collect();
        format!("\x1b[97;40m{blocks}\x1b[0m")
    };
    Some(Code { lines: (0..width).step_by(2).map(line).collect(), width })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_a_browser_takes_it() {
        let first = |listen: &str| addresses(listen.parse().unwrap()).remove(0);
        assert_eq!(first("127.0.0.1:8007"), "http://127.0.0.1:8007");
        assert_eq!(first("192.0.2.1:80"), "http://192.0.2.1");
        assert_eq!(first("[::1]:8007"), "http://[::1]:8007");
        assert!(addresses("0.0.0.0:8007".parse().unwrap()).iter().all(|url| !url.contains("//127.")));
    }

    #[test]
    fn the_code_of_an_address_is_small_enough_for_a_projector() {
        for url in ["http://10.0.0.1:8007", "http://192.168.178.123:8007"] {
            let code = code(url).unwrap();
            assert!(code.width <= 33 && code.lines.len() <= 17, "{url}: {} x {}", code.width, code.lines.len());
        }
    }
}
