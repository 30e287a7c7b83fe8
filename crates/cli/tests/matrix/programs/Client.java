import java.io.*;
import java.net.*;
import java.util.*;
import java.util.concurrent.*;

/** Blocking sockets in threads, towards an echo server. */
public class Client {
    static boolean one(String host, int port, int n) throws Exception {
        byte[] data = new byte[600_001 + n];
        new Random(n).nextBytes(data);
        try (Socket s = new Socket()) {
            s.setSoTimeout(20_000);
            s.setTcpNoDelay(n % 2 == 0);
            s.connect(new InetSocketAddress(host, port), 5_000);
            Thread sender = new Thread(() -> {
                try {
                    OutputStream out = s.getOutputStream();
                    for (int at = 0; at < data.length; at += 5000) out.write(data, at, Math.min(5000, data.length - at));
                    s.shutdownOutput();
                } catch (IOException e) { throw new UncheckedIOException(e); }
            });
            sender.start();
            byte[] got = s.getInputStream().readAllBytes();
            sender.join();
            return Arrays.equals(got, data);
        }
    }

    public static void main(String[] args) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(8);
        List<Future<Boolean>> all = new ArrayList<>();
        for (int i = 0; i < 16; i++) { int n = i; all.add(pool.submit(() -> one(args[0], Integer.parseInt(args[1]), n))); }
        int good = 0;
        for (Future<Boolean> f : all) if (f.get()) good++;
        pool.shutdown();
        System.out.println(good + " unchanged");
    }
}
