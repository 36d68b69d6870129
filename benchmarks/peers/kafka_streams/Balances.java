import com.fasterxml.jackson.databind.JsonNode;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The balance job on Kafka Streams: one processor over the three topics, which are keyed and partitioned alike, so that
 * nothing is repartitioned; a store with a changelog and a write cache; commits every 200 ms, at least once. The store is
 * in memory, or RocksDB. It publishes a record per event: the cache that makes Kafka Streams publish only the newest of a
 * key belongs to its DSL, which would first repartition everything by SKU and location.
 */
public final class Balances {
    private static final String STORE = "balances";

    public static void main(String[] arguments) {
        Map<String, String> options = new HashMap<>();
        for (int i = 0; i < arguments.length; i += 2) {
            options.put(arguments[i].substring(2), arguments[i + 1]);
        }
        boolean onDisk = options.get("store").equals("rocksdb");

        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, options.get("group"));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, options.get("bootstrap"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, options.get("folder"));
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, options.getOrDefault("threads", "1"));
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, "200");
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, String.valueOf(64L << 20));
        settings.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        settings.put(StreamsConfig.consumerPrefix("isolation.level"), "read_committed");
        settings.put(StreamsConfig.producerPrefix("linger.ms"), options.get("linger-ms"));
        settings.put(StreamsConfig.producerPrefix("batch.size"), "262144");
        settings.put(StreamsConfig.producerPrefix("acks"), "all");

        StreamsBuilder builder = new StreamsBuilder();
        var supplier = onDisk ? Stores.persistentKeyValueStore(STORE) : Stores.inMemoryKeyValueStore(STORE);
        builder.addStateStore(
            Stores.keyValueStoreBuilder(supplier, Serdes.String(), Serdes.ByteArray()).withCachingEnabled());
        builder.stream(
                Arrays.asList(options.get("inputs").split(",")), Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
            .process(Keep::new, STORE)
            .to(options.get("output"), Produced.with(Serdes.String(), Serdes.ByteArray()));

        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            return StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_APPLICATION;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(10))));
        streams.start();
    }

    private static final class Keep implements Processor<byte[], byte[], String, byte[]> {
        private final ByteArrayOutputStream bytes = new ByteArrayOutputStream(512);
        private ProcessorContext<String, byte[]> context;
        private KeyValueStore<String, byte[]> store;

        @Override
        public void init(ProcessorContext<String, byte[]> given) {
            context = given;
            store = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<byte[], byte[]> message) {
            try {
                JsonNode event = Job.event(message.value());
                String key = Job.key(event);
                byte[] before = store.get(key);
                long[] balance = new long[3];
                if (before != null) {
                    ByteBuffer.wrap(before).asLongBuffer().get(balance);
                }
                Job.take(balance, event);
                byte[] after = new byte[24];
                ByteBuffer.wrap(after).asLongBuffer().put(balance);
                store.put(key, after);
                context.forward(message.withKey(key).withValue(Job.record(balance, event, bytes)));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }
}
