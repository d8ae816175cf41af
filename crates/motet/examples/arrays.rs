//! The array interface in a minute: making, computing, indexing, changing, saving.
//!
//! `cargo run -p motet --example arrays`

use motet::Arrays;
use motet::prelude::*;

fn main() -> motet::Result<()> {
    // Numbers, nested Rust arrays, vectors (whose memory is adopted), slices (copied).
    let x = array!([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
    let bias = Array::try_from(vec![0.5f32, 0.25, 0.0])?;
    println!(
        "x = {x}\nshape {}, {} bytes of {}\n",
        x.shape(),
        x.nbytes(),
        x.dtype()
    );

    // Lazy: `y` is a recipe until somebody looks at it. Shapes broadcast, dtypes promote, and
    // numbers take on the dtype of the array beside them.
    let y = (&x * 2 + &bias) / 10;
    println!("{y:?} is not computed yet");
    println!("y = {y}\n");

    // Functions return a `Result`; operators panic with the same message.
    let mean = ops::sum(&ops::exp(&y)?, -1)? / 3;
    println!("mean of exp(y) = {mean}\n");
    if let Err(error) = ops::add(&x, array!([1, 2])) {
        println!("what does not fit is refused: {error}\n");
    }

    // Indexing: positions, ranges with steps, new axes, index arrays.
    println!("last column          {}", x.index((.., -1))?);
    println!("second row, reversed {}", x.index((1, step(.., -1)))?);
    println!("columns 2, 0, 2      {}\n", x.index((0, [2, 0, 2]))?);

    // Arrays never change; these are new ones.
    let large = ops::greater(&x, 4.5)?;
    println!("set by bools         {}", x.index_set(&large, 0)?);
    println!("counted twice        {}\n", x.at(([0, 0], 1)).add(100)?);

    // Out again: borrowed where it lies row by row, copied otherwise.
    let total: f32 = y.as_slice::<f32>()?.iter().sum();
    println!(
        "sum of y {total}, by motet {}\n",
        ops::sum(&y, ..)?.item::<f32>()?
    );

    // Any thread may evaluate what another has made.
    let later = std::thread::scope(|s| s.spawn(|| y.index(0)?.to_vec::<f32>()).join().unwrap())?;
    println!("from another thread {later:?}\n");

    // Files that numpy and MLX read.
    let path = std::env::temp_dir().join(format!("motet-arrays-{}.npz", std::process::id()));
    let named = Arrays::from([("x".to_owned(), x), ("y".to_owned(), y)]);
    motet::savez(&path, &[], &named)?;
    for (name, array) in motet::load(&path)? {
        println!("{}: {name} is {array:?}", path.display());
    }
    std::fs::remove_file(&path).map_err(|error| motet::Error::file("example", error.to_string()))
}
