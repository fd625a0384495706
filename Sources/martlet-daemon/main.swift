import Toolbox

// Everything is in `Toolbox`, where it is tested.
await DaemonProgram.run()
