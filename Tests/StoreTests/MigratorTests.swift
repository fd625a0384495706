import FoundationEssentials
import Postgres
import TestSupport
import Testing

@testable import Store

@Suite struct MigratorTests {
    @Test func appliesOnceAndRefusesChangedMissingAndLateFiles() async throws {
        try await withEmptyDatabase { configuration, directory in
            func migrate() async throws -> [String] {
                try await Migrator(directory: directory.path, logger: TestStack.logger).migrate(configuration)
            }
            try write("CREATE TABLE a (x int);", "0001_create_a.sql", directory)
            try write("CREATE TABLE b (x int); INSERT INTO b VALUES (1);", "0003_create_b.sql", directory)
            #expect(try await migrate() == ["0001_create_a", "0003_create_b"])
            #expect(try await migrate() == [])
            try write("CREATE TABLE c (x int);", "0002_create_c.sql", directory)
            await expectRefused("give it a higher number") { _ = try await migrate() }
            try FileManager.default.removeItem(at: directory.appending(path: "0002_create_c.sql"))
            try write("CREATE TABLE a (x bigint);", "0001_create_a.sql", directory)
            await expectRefused("changed after it was applied") { _ = try await migrate() }
            try FileManager.default.removeItem(at: directory.appending(path: "0001_create_a.sql"))
            await expectRefused("its file is missing") { _ = try await migrate() }
        }
    }

    @Test func aFailingFileLeavesNothingBehind() async throws {
        try await withEmptyDatabase { configuration, directory in
            try write("CREATE TABLE a (x int); SELECT 1 / 0;", "0001_fail.sql", directory)
            let migrator = try Migrator(directory: directory.path, logger: TestStack.logger)
            await #expect(throws: StoreError.self) { try await migrator.migrate(configuration) }
            try write("CREATE TABLE a (x int);", "0001_fail.sql", directory)
            let mended = try Migrator(directory: directory.path, logger: TestStack.logger)
            #expect(try await mended.migrate(configuration) == ["0001_fail"])
        }
    }

    @Test func migratorsAtTheSameTimeApplyEachFileOnce() async throws {
        try await withEmptyDatabase { configuration, directory in
            for number in 1...5 { try write("CREATE TABLE t\(number) (x int);", "000\(number)_create.sql", directory) }
            let migrator = try Migrator(directory: directory.path, logger: TestStack.logger)
            let applied = try await withThrowingTaskGroup(of: [String].self) { group in
                for _ in 0..<4 { group.addTask { try await migrator.migrate(configuration) } }
                return try await group.reduce(into: []) { $0 += $1 }
            }
            #expect(applied.sorted() == migrator.migrations.map(\.name))
        }
    }

    @Test func badNamesAreRefused() throws {
        let directory = FileManager.default.temporaryDirectory.appending(path: "martlet-\(UUID())")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        #expect(throws: StoreError.self) { try Migrator(directory: directory.path, logger: TestStack.logger) }
        try write("SELECT 1;", "1_x.sql", directory)
        #expect(throws: StoreError.self) { try Migrator(directory: directory.path, logger: TestStack.logger) }
    }

    private func expectRefused(_ words: String, _ body: () async throws -> Void) async {
        let error = await #expect(throws: StoreError.self) { try await body() }
        #expect(error?.code == .migrationRefused)
        #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
    }

    private func write(_ text: String, _ name: String, _ directory: URL) throws {
        try Data(text.utf8).write(to: directory.appending(path: name))
    }

    private func withEmptyDatabase(_ body: (PostgresConfiguration, URL) async throws -> Void) async throws {
        let directory = FileManager.default.temporaryDirectory.appending(path: "martlet-\(UUID())")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        let name = "martlet_test_\(UInt64.random(in: 0 ... .max))"
        let admin = try await PostgresConnection.connect(try TestStack.superuser(), logger: TestStack.logger)
        try await admin.execute(script: "CREATE DATABASE \"\(name)\"")
        var configuration = try TestStack.superuser()
        configuration.database = name
        let result = await Result { try await body(configuration, directory) }
        try await admin.execute(script: "DROP DATABASE \"\(name)\" WITH (FORCE)")
        await admin.close()
        try result.get()
    }
}

extension Result where Failure == any Error {
    fileprivate init(_ body: () async throws -> Success) async {
        do { self = .success(try await body()) } catch { self = .failure(error) }
    }
}
