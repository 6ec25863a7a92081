//! A broker inside a program: publish a message, read it back.

use millstream::{Broker, Start};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::open("embedded-data")?;
    let receipt = broker.publisher("orders")?.publish_blocking("hello")?; // now it is on disk
    let mut tape = broker.reader("orders", Start::Offset(receipt.first))?;
    let record = tape.next_blocking().ok_or("the broker was closed")??;
    println!("{}: {:?}", record.offset(), record.body());
    Ok(broker.close()?)
}
