//! The tile ops.

use super::{Fault, Machine, Tiles};
use crate::kir::ops::Op;
use crate::kir::types::{LANES, TILE_ROWS, TILES, VECTOR_BYTES};

/// What is in a tile that has not been written: no number that a kernel could rely on.
const UNSPECIFIED: u8 = 0xa5;

fn not_configured() -> Fault {
    Fault::Contract("a tile op without tile_begin".to_owned())
}

impl Tiles {
    fn new(rows: usize) -> Self {
        Self { rows, bytes: Box::new([[[UNSPECIFIED; VECTOR_BYTES]; TILE_ROWS]; TILES]) }
    }

    fn rows_of(&self, tile: usize) -> usize {
        if tile < 6 { self.rows } else { TILE_ROWS }
    }
}

pub(super) fn eval(m: &mut Machine<'_>, op: &Op) -> Result<(), Fault> {
    match *op {
        Op::TileBegin { rows } => m.tiles = Some(Tiles::new(rows.into())),
        Op::TileEnd {} => m.tiles = None,
        Op::TileZero { tile } => {
            let tiles = m.tiles.as_mut().ok_or_else(not_configured)?;
            tiles.bytes[usize::from(tile)] = [[0; VECTOR_BYTES]; TILE_ROWS];
        }
        Op::TileLoad { ptr, stride, offset, tile } => {
            let (at, stride, tile) = (m.address(ptr, offset), m.int(stride), usize::from(tile));
            let mut tiles = m.tiles.take().ok_or_else(not_configured)?;
            for row in 0..tiles.rows_of(tile) {
                let from = at.wrapping_add(stride.wrapping_mul(row as i64));
                tiles.bytes[tile][row].copy_from_slice(m.memory.load(from, VECTOR_BYTES)?);
            }
            m.tiles = Some(tiles);
        }
        Op::TileStore { ptr, stride, offset, tile } => {
            let (at, stride, tile) = (m.address(ptr, offset), m.int(stride), usize::from(tile));
            let tiles = m.tiles.as_ref().ok_or_else(not_configured)?;
            for row in 0..tiles.rows_of(tile) {
                let to = at.wrapping_add(stride.wrapping_mul(row as i64));
                m.memory.store(to, &tiles.bytes[tile][row])?;
            }
        }
        Op::TileDot { acc, s, u } => {
            let tiles = m.tiles.as_mut().ok_or_else(not_configured)?;
            let (signed, unsigned) = (tiles.bytes[usize::from(s)], tiles.bytes[usize::from(u)]);
            for (row, signed) in signed.iter().enumerate().take(tiles.rows) {
                for n in 0..LANES {
                    let at = 4 * n..4 * n + 4;
                    let place = &mut tiles.bytes[usize::from(acc)][row][at.clone()];
                    let mut sum = i32::from_le_bytes([place[0], place[1], place[2], place[3]]);
                    for (four, row) in signed.chunks_exact(4).zip(&unsigned) {
                        let products = four.iter().zip(&row[at.clone()]);
                        sum = products
                            .fold(sum, |sum, (&a, &b)| sum.wrapping_add(i32::from(a as i8) * i32::from(b)));
                    }
                    place.copy_from_slice(&sum.to_le_bytes());
                }
            }
        }
        _ => return Err(Fault::Contract(format!("`{op}` is no tile op"))),
    }
    Ok(())
}
