import Toolbox

try await probe()
